"""Which checkpoint to go on from: the newest one whose files are those that were written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from train.checkpoints.checksums import problems


def steps_in(folder: Path) -> list[int]:
    """Finished checkpoints in a folder, oldest first."""
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def newest_whole(folders: Sequence[Path]) -> tuple[Path | None, list[Path]]:
    """The newest whole checkpoint, of the first folder where several have it, and the broken ones that are newer.

    These are renamed to `<step>.broken` and named on stderr. Each process reads a part of every checkpoint; all come
    to the same answer.
    """
    broken = []
    for step in sorted({step for folder in folders for step in steps_in(folder)}, reverse=True):
        for path in (folder / str(step) for folder in folders):
            if not path.is_dir():
                continue
            found = problems(path, share=(jax.process_index(), jax.process_count()))
            for problem in found:
                print(f"rank {jax.process_index()}: {problem}", file=sys.stderr, flush=True)
            if not _any_process(bool(found)):
                return path, broken
            broken.append(_set_aside(path))
    return None, broken


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.broken")
    count = 1
    while aside.exists():
        count += 1
        aside = path.with_name(f"{path.name}.broken{count}")
    _together(path.name)
    if jax.process_index() == 0:
        path.rename(aside)
        print(f"checkpoint {path} is broken, kept as {aside}; an older one is used", file=sys.stderr, flush=True)
    _together(aside.name)
    return aside


def _any_process(mine: bool) -> bool:
    if jax.process_count() == 1:
        return mine
    return bool(np.any(multihost_utils.process_allgather(np.array(mine))))


def _together(name: str) -> None:
    """All have looked before one renames, and it has renamed before any looks again."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"checkpoint {name}")
