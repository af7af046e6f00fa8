"""Starts one training command as many processes, on this machine or on a cluster.

    python -m train.launch local --processes 2 --config configs/demo.py
    python -m train.launch slurm --nodes 4 --gpus-per-node 8 --time 1-00:00:00 --config configs/demo.py
    python -m train.launch kubernetes --image IMAGE --tpu tpu-v5p-slice --topology 4x4x4 --nodes 16 --config ...
    python -m train.launch tpu --pod NAME --zone ZONE --config configs/demo.py
    python -m train.launch follow runs/demo      # logs of all ranks as one

`--dry-run` prints what would be started. Exit codes: of the run where it is local (see `python -m train`), else 0 once
it is handed over; 1 for a mistake.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from configs import command
from train.build import check
from train.launch import kubernetes, schemas, slurm, tpu
from train.launch.arguments import Request, read
from train.launch.console import Console, Following
from train.launch.local import Processes, visible_gpus
from train.launch.settings import KubernetesSettings, LocalSettings, SlurmSettings, TpuSettings
from train.launch.supervise import RestartPolicy, supervise
from train.phases import read_sections
from train.sections import Sections, completed


def main(argv: Sequence[str] | None = None) -> None:
    try:
        request = read(sys.argv[1:] if argv is None else argv)
        if isinstance(request, Path):
            sys.exit(_follow(request))
        _refuse_bad_config(request)
        sys.exit(_START[type(request.settings)](request, request.settings))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _refuse_bad_config(request: Request) -> None:
    """Before any process starts, so that a mistake is told once."""
    config = command.read(request.config, request.overrides, completed)
    read_sections(config)
    check(config)
    if request.settings.num_devices is not None:
        Sections.of(config).mesh.shape(request.settings.num_devices)


def _local(request: Request, settings: LocalSettings) -> int:
    workdir = Path(request.workdir).resolve()
    platform = settings.platform
    if platform == "auto":
        platform = "cuda" if visible_gpus() else "cpu"
    processes = Processes(
        request.command(settings.python or sys.executable),
        settings.processes,
        workdir / "logs",
        devices=settings.devices,
        platform=platform,
        environment=settings.variables,
    )
    if request.dry_run:
        for rank in range(settings.processes):
            own = {k: v for k, v in processes.environment(rank, 0).items() if os.environ.get(k) != v}
            told = " ".join(f"{name}={shlex.quote(value)}" for name, value in own.items())
            told = told.replace("127.0.0.1:0", "127.0.0.1:<free port>")
            print(f"{told} {shlex.join(processes.command)} >> {processes.log(rank)}")
        return 0
    with processes, Following(Console(workdir / "logs", _say, from_now=True)):
        return supervise(processes, workdir, RestartPolicy(restarts=settings.restarts), _say)


def _slurm(request: Request, settings: SlurmSettings) -> int:
    directory = Path(settings.directory).resolve()
    workdir = directory / request.workdir
    request = dataclasses.replace(request, workdir=str(workdir))
    settings = dataclasses.replace(settings, directory=str(directory))
    script = slurm.script(settings, request.command(settings.python), request.workdir)
    if request.dry_run:
        print(script, end="")
        return 0
    sbatch = _program("sbatch")
    (workdir / "logs").mkdir(parents=True, exist_ok=True)
    done = subprocess.run([sbatch, "--parsable"], input=script, text=True, capture_output=True)
    if done.returncode:
        raise ValueError(f"sbatch refused the job: {done.stderr.strip()}")
    print(f"job {done.stdout.strip()}; its logs: python -m train.launch follow {workdir}")
    return 0


def _kubernetes(request: Request, settings: KubernetesSettings) -> int:
    manifest = kubernetes.jobset(settings, request.command(settings.python))
    checked = "# not validated: the package kubernetes-validate is not installed"
    if schemas.can_validate():
        checked = f"# fits the schemas of JobSet v1alpha2 and Kubernetes {schemas.validate(manifest)}"
    text = yaml.safe_dump(manifest, sort_keys=False, width=120)
    if request.dry_run:
        print(f"{checked}\n{text}", end="")
        return 0
    done = subprocess.run([_program("kubectl"), "apply", "-f", "-"], input=text, text=True)
    if done.returncode == 0:
        pods = settings.nodes * settings.slices
        space = f" --namespace={settings.namespace}" if settings.namespace else ""
        label = f"jobset.sigs.k8s.io/jobset-name={settings.name}"
        print(f"its logs: kubectl logs{space} --follow --prefix --max-log-requests={pods} --selector={label}")
    return done.returncode


def _tpu(request: Request, settings: TpuSettings) -> int:
    line = tpu.command_line(settings, request.command(settings.python), request.workdir)
    if request.dry_run:
        print(shlex.join(line))
        return 0
    return subprocess.run([_program("gcloud"), *line[1:]]).returncode


_START = {LocalSettings: _local, SlurmSettings: _slurm, KubernetesSettings: _kubernetes, TpuSettings: _tpu}


def _follow(workdir: Path) -> int:
    """Until ^C."""
    if not (workdir / "logs").is_dir():
        raise ValueError(f"{workdir} has no logs; give the --workdir of a run that was launched")
    console = Console(workdir / "logs", _say)
    try:
        while True:
            console.poll()
            time.sleep(0.5)
    except KeyboardInterrupt:
        return 0


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ValueError(f"{name} is not on this machine's PATH; run this where it is, or print with --dry-run")
    return found


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
