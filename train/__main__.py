"""`python -m train --config configs/x.py[:variant] [--config.a.b=c] [--workdir W] [--phase P]`.

Exit codes: 0 done; 75 run the same command to go on (asked to stop by SIGTERM, a peer lost, a step that hangs, a full
disk); 1 anything else. Where the process that coordinates the others is gone, JAX aborts them (134), which is as good
as 75.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from configs import command
from model.startup import prepare_kernels
from sharding import processes
from train.build import build_phase, check
from train.checkpoint import CheckpointError
from train.exits import exit_code, may_go_on
from train.integrity import Corrupted
from train.loop import Diverged, Preempted
from train.phases import read_sections, run
from train.preflight.checks import preflight
from train.ranks import RETRY
from train.sections import completed
from train.watchdog import Watchdog

_PHASE = flags.DEFINE_string(
    "phase", None, "The only phase to run; all of them, in order, if not given.", allow_override=True
)


def main(config: ConfigDict, workdir: Path) -> None:
    prepare_kernels()
    settings, _ = read_sections(config)
    processes.start(processes.from_environment(), settings.heartbeat_seconds)
    check(config)
    try:
        checked = preflight(config, workdir, _PHASE.value)
        if processes.host_index() == 0 and processes.host_count() > 1:
            print(checked)
        with Watchdog(workdir, settings.watchdog_seconds, settings.watchdog_pause_seconds, exit_code) as watchdog:
            run(config, workdir, build_phase, _PHASE.value, watchdog)
    except Preempted as stop:
        print(stop, file=sys.stderr)
        sys.exit(RETRY)
    except (CheckpointError, Corrupted, Diverged, OSError) as error:
        if isinstance(error, OSError) and not may_go_on(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(RETRY if may_go_on(error) else 1)


if __name__ == "__main__":
    command.run(main, completed)
