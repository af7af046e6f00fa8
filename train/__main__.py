"""`python -m train --config configs/x.py[:variant] [--config.a.b=c] [--workdir W] [--phase P]`.

Exit codes: 0 done; 75 asked to stop by SIGTERM, state saved, run the same command to go on; 1 anything else.
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
from train.loop import RETRY, Diverged, Preempted
from train.phases import read_sections, run
from train.sections import completed

_PHASE = flags.DEFINE_string(
    "phase", None, "The only phase to run; all of them, in order, if not given.", allow_override=True
)


def main(config: ConfigDict, workdir: Path) -> None:
    prepare_kernels()
    processes.start(processes.from_environment())
    read_sections(config)
    check(config)
    try:
        run(config, workdir, build_phase, _PHASE.value)
    except Preempted as stop:
        print(stop, file=sys.stderr)
        sys.exit(RETRY)
    except (CheckpointError, Diverged) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    command.run(main, completed)
