"""`python -m train.preflight --config C [--workdir W]` only checks the hosts of a run, started as `python -m train` is.

Exit codes: 0 all is well; 1 something is amiss, which is told; 75 it may yet be: only the disk is full,
or a process does not answer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
from ml_collections import ConfigDict

from configs import command
from sharding import processes
from train.build import check
from train.checkpoint import CheckpointError
from train.exits import may_go_on
from train.preflight.checks import preflight
from train.ranks import RETRY
from train.sections import completed


def main(config: ConfigDict, workdir: Path) -> None:
    processes.start(processes.from_environment())
    check(config)
    try:
        summary = preflight(config, workdir)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(RETRY if may_go_on(error) else 1)
    if jax.process_index() == 0:
        print(summary)


if __name__ == "__main__":
    command.run(main, completed)
