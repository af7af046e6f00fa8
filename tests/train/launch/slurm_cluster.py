"""A real SLURM of two nodes on this machine, everything of it below one folder and gone afterwards."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

DEADLINE = 1200  # seconds: for machines that are busy
PROGRAMS = ("slurmctld", "slurmd", "srun", "sbatch", "scontrol", "scancel")

# The first node has this machine's own name, as JAX looks up the first node of a job to find its coordinator.
_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=600
SlurmdTimeout=600
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd_%n.log
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName={host}-b NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def installed() -> bool:
    return os.geteuid() == 0 and all(shutil.which(program) for program in PROGRAMS)


@contextlib.contextmanager
def cluster(folder: pathlib.Path) -> Iterator[dict[str, str]]:
    """The environment in which SLURM's commands find it, once both nodes are idle."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(3)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in sockets]
    (folder / "state").mkdir(parents=True)
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(_CONF.format(host=host, ports=ports, folder=folder))
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    daemons = []
    try:
        for line in (["slurmctld", "-D", "-i"], ["slurmd", "-D", "-N", host], ["slurmd", "-D", "-N", f"{host}-b"]):
            output = (folder / f"{line[-1]}.out").open("w")
            daemons.append(subprocess.Popen(line, env=environment, stdout=output, stderr=output))
        wait_for(lambda: _both_idle(environment, daemons, folder), "idle nodes")
        yield environment
        told(environment, "scancel", "--full", "--user=root")
        wait_for(lambda: not told(environment, "squeue", "--noheader"), "an empty queue")
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(DEADLINE)


def _both_idle(environment: dict[str, str], daemons: list[subprocess.Popen], folder: pathlib.Path) -> bool:
    if any(daemon.poll() is not None for daemon in daemons):
        raise AssertionError("\n".join(path.read_text()[-2000:] for path in folder.glob("*.out")))
    return told(environment, "sinfo", "--noheader", "--format=%T %D").split() == ["idle", "2"]


def told(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip()


def wait_for(condition, what: str) -> None:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError(f"waited {DEADLINE} s for {what}")


def job(environment: dict[str, str], number: str) -> dict[str, str]:
    """Fields of a job, as `scontrol show job` tells them."""
    fields = told(environment, "scontrol", "--oneliner", "show", "job", number).split()
    return dict(field.split("=", 1) for field in fields if "=" in field)
