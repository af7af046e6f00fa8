"""The gcloud command that starts the same line on every worker of a TPU VM; JAX finds the others by itself there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from train.launch.settings import TpuSettings

_WORKER = """\
set -o pipefail
cd {directory} && mkdir -p {logs} || exit 1
{exports}
for (( restarts = 0; ; restarts++ )); do
  {command} 2>&1 | tee -a {logs}/"$(hostname)".log
  code=$?
  # 75 asks to go on with the same command; from 128 on a process was killed, and the others can come no further.
  if (( code != 75 && code < 128 )) || (( restarts >= {restarts} )); then exit $code; fi
  sleep 10
done
"""


def worker_script(settings: TpuSettings, command: Sequence[str], workdir: str) -> str:
    """What bash runs on each worker."""
    variables = {"PYTHONUNBUFFERED": "1", "KINEMA_COORDINATOR": "auto", **settings.variables}
    return _WORKER.format(
        directory=shlex.quote(settings.directory),
        logs=shlex.quote(str(Path(workdir) / "logs")),
        exports="\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
        command=shlex.join(command),
        restarts=settings.restarts,
    )


def command_line(settings: TpuSettings, command: Sequence[str], workdir: str) -> list[str]:
    """gcloud and its arguments."""
    project = [f"--project={settings.project}"] if settings.project else []
    line = f"bash -c {shlex.quote(worker_script(settings, command, workdir))}"
    return [
        *("gcloud", "compute", "tpus", "tpu-vm", "ssh", settings.pod),
        *(f"--zone={settings.zone}", *project, "--worker=all", f"--command={line}"),
    ]
