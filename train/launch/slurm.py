"""The batch script of a run under SLURM, which starts it again after it was preempted or lost a process."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from train.launch.settings import SlurmSettings

_SCRIPT = """\
#!/bin/bash
{directives}

cd {directory}
mkdir -p {logs}
{exports}
srun {srun} \\
  {command}
code=$?

# 75 asks to go on with the same command; from 128 on a process was killed, and the others can come no further.
if (( code == 75 || code >= 128 )) && (( ${{SLURM_RESTART_COUNT:-0}} < {restarts} )); then
  echo "exit code $code: queued again after ${{SLURM_RESTART_COUNT:-0}} of {restarts} restarts"
  scontrol requeue "$SLURM_JOB_ID" && sleep {grace}  # SLURM ends this script
fi
exit $code
"""


def script(settings: SlurmSettings, command: Sequence[str], workdir: str) -> str:
    """The text that `sbatch` takes; rank r writes <workdir>/logs/rank_<r>.log, the script itself job_<id>.log."""
    logs = str(Path(workdir) / "logs")
    variables = {"PYTHONUNBUFFERED": "1", **_place(settings), **settings.variables}
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())
    return _SCRIPT.format(
        directives="\n".join(f"#SBATCH {line}" for line in _directives(settings, logs)),
        directory=shlex.quote(settings.directory),
        logs=shlex.quote(logs),
        exports=exports,
        srun=shlex.join(_srun(settings, logs)),
        command=shlex.join(command),
        restarts=settings.restarts,
        grace=settings.grace,
    )


def _place(settings: SlurmSettings) -> dict[str, str]:
    """What tells the processes of their peers and devices."""
    if settings.nodes * settings.tasks == 1:
        return {}  # alone
    every_gpu = ",".join(map(str, range(settings.gpus_per_node)))
    # JAX gives each process under SLURM the one GPU that its place on the node counts to, unless told otherwise.
    whole_node = {"JAX_LOCAL_DEVICE_IDS": every_gpu} if settings.tasks < settings.gpus_per_node else {}
    return {"KINEMA_COORDINATOR": "auto", **whole_node}


def _directives(settings: SlurmSettings, logs: str) -> list[str]:
    given = {
        "job-name": settings.name,
        "output": f"{logs}/job_%j.log",
        "nodes": settings.nodes,
        "ntasks-per-node": settings.tasks,
        "gpus-per-node": settings.gpus_per_node or "",
        "cpus-per-task": settings.cpus_per_task or "",
        "mem": settings.memory,
        "time": settings.time,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        # To the processes, ahead of the time limit; who preempts the job sends the same.
        "signal": f"TERM@{settings.grace}" if settings.time else "",
    }
    lines = [f"--{name}={value}" for name, value in given.items() if value not in ("", None)]
    return [*lines, "--requeue", "--open-mode=append", *settings.sbatch]


def _srun(settings: SlurmSettings, logs: str) -> list[str]:
    """Once a process has ended, the others have the time to end by themselves, so that the exit code is of what went
    wrong and not of SLURM's kill."""
    options = ["--kill-on-bad-exit=0", f"--wait={settings.grace}"]
    options += [f"--output={logs}/rank_%t.log", "--open-mode=append"]
    options += [f"--cpus-per-task={settings.cpus_per_task}"] if settings.cpus_per_task else []
    if settings.image:
        options += [f"--container-image={settings.image}", f"--container-workdir={settings.directory}"]
        options += [f"--container-mounts={','.join(settings.mounts)}"] if settings.mounts else []
    return options
