"""Weights made out of other checkpoints' weights, as a checkpoint that everything reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from data.whole import new_folder
from train.build import build_phase
from train.checkpoint import Checkpoint
from train.optimizer import name_of
from train.sections import completed
from train.step import TrainState
from train.stored import stored


def refuse_other_models(checkpoints: Sequence[Checkpoint]) -> None:
    """Raises ValueError unless all have one model, one tokenizer and parameters of equal names and shapes."""
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if other.meta["tokenizer_sha256"] != first.meta["tokenizer_sha256"]:
            raise ValueError(f"{other.path} has another tokenizer than {first.path}; their ids mean different things")
        mine, theirs = (_shapes(checkpoint) for checkpoint in (first, other))
        unequal = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        if unequal:
            name = unequal[0]
            raise ValueError(
                f"{name} is {theirs.get(name, 'absent')} in {other.path} and {mine.get(name, 'absent')} in "
                f"{first.path}; give checkpoints of one model"
            )


def mean_of(checkpoints: Sequence[Checkpoint], item: str) -> Any:
    """The uniform average of `weights` or `buffers`, one array of all in memory at a time."""
    mean = lambda *leaves: np.mean([np.asarray(leaf) for leaf in leaves], axis=0, dtype=np.float32)  # noqa: E731
    return jax.tree.map(mean, *(stored(checkpoint, item) for checkpoint in checkpoints))


def write_weights(out: str | Path, weights: Any, buffers: Any, like: Checkpoint, origin: dict[str, Any]) -> Checkpoint:
    """Writes the checkpoint `out`, or nothing at all; config, tokenizer and the rest are those of `like`.

    origin: what made the weights, kept in `meta.json`. Raises ValueError where `out` exists.
    """
    with new_folder(out) as aside:
        shutil.copytree(like.path / "files", aside / "files")
        (aside / "files" / "meta.json").write_text(
            json.dumps({**like.meta, "origin": origin}, indent=1, sort_keys=True)
        )
        with ocp.StandardCheckpointer() as writer:
            writer.save(aside / "params", weights)
            if jax.tree.leaves(buffers):
                writer.save(aside / "buffers", buffers)
    return Checkpoint.open(out)


def held_out_figures(
    checkpoint: Checkpoint, teacher: Checkpoint | None = None
) -> Callable[[Any, Any], dict[str, float]]:
    """(weights, buffers) -> what the phase of the checkpoint measures on held-out data, for any weights of its model.

    Raises ValueError where the phase holds nothing out.
    """
    evaluate = build_phase(completed(ConfigDict(checkpoint.config)), checkpoint.phase, teacher).evaluate
    if evaluate is None:
        raise ValueError(f"phase {checkpoint.phase!r} holds nothing out; set `holdout` of a source, or do without")

    def figures(weights: Any, buffers: Any) -> dict[str, float]:
        params, buffers = jax.tree.map(jnp.asarray, (weights, buffers))
        return evaluate(TrainState(jnp.int32(0), params, buffers, (), None, None))  # type: ignore[arg-type]

    return figures


def print_figures(found: Mapping[str, Mapping[str, float]]) -> None:
    for name, figures in found.items():
        print(f"{name}: " + "  ".join(f"{figure} {value:.4f}" for figure, value in figures.items()))


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(stored(checkpoint, "weights"))
    return {name_of(path): leaf.shape for path, leaf in leaves}
