"""Evaluation beside training: every checkpoint that a run saves, once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eval.language import CheckpointModel
from serving.model import LoadedModel
from train.checkpoint import Checkpoint

SECONDS = 2.0  # between two looks


def watch(
    workdir: Path,
    out: Path,
    judge: Callable[[Checkpoint, CheckpointModel, Path], None],
    sizes: dict[str, Any],
) -> None:
    """Calls `judge(checkpoint, model, out/<phase>/<step>)` for each checkpoint without a `summary.json` there.

    Returns when every phase of the run has its `done.json` and nothing is left. A checkpoint that training removes
    before its turn is left out: set `train.keep` to as many as are saved while one is judged.
    Raises ValueError if there is no such folder.
    """
    if not workdir.is_dir():
        raise ValueError(f"--watch {workdir} is no folder; give the working folder of a training run")
    model: CheckpointModel | None = None
    lost: set[Path] = set()
    while True:
        closed = _is_over(workdir)  # before the look: what is saved until then is seen
        waiting = [f for f in _saved(workdir) if f not in lost and not _summary(workdir, f, out).exists()]
        if not waiting:
            if closed:
                return
            time.sleep(SECONDS)
            continue
        folder = waiting[0]
        try:
            checkpoint = Checkpoint.open(folder)
            model = _model(checkpoint, model, sizes)
        except (ValueError, OSError):
            if (folder / "files" / "meta.json").exists():
                raise
            print(f"{folder} was removed before it could be read")
            lost.add(folder)
            continue
        print(f"{checkpoint.phase} step {checkpoint.step}", flush=True)
        judge(checkpoint, model, _summary(workdir, folder, out).parent)


def _model(checkpoint: Checkpoint, before: CheckpointModel | None, sizes: dict[str, Any]) -> CheckpointModel:
    """The checkpoint as a model; one of the same shape keeps the compiled programs of the one before."""
    loaded = LoadedModel.of(checkpoint)
    if before is not None and (before.loaded.config, before.vocabulary.hash, before.loaded.phase) == (
        loaded.config,
        loaded.vocabulary.hash,
        loaded.phase,
    ):
        before.take_weights(loaded)
        return before
    return CheckpointModel(loaded, **sizes)


def _saved(workdir: Path) -> Iterator[Path]:
    """Finished checkpoints, the oldest first: a folder has its number for a name once it is whole."""
    found = [folder for folder in workdir.glob("*/checkpoints/*") if folder.name.isdigit()]
    yield from sorted(found, key=lambda folder: (folder.stat().st_mtime if folder.exists() else 0, int(folder.name)))


def _summary(workdir: Path, folder: Path, out: Path) -> Path:
    return out / folder.relative_to(workdir).parts[0] / folder.name / "summary.json"


def _is_over(workdir: Path) -> bool:
    """Whether every phase that the run's config names has ended."""
    for folder in _saved(workdir):
        try:
            phases = Checkpoint.open(folder).config.get("train", {}).get("phases", ())
        except (ValueError, OSError):
            continue  # just removed
        return bool(phases) and all((workdir / phase / "done.json").exists() for phase in phases)
    return False
