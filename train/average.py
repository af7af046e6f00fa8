"""Average the weights of models fine-tuned from one start, as WARM does with reward models (arXiv 2401.12187).

    python -m train.average runs/1/reward runs/2/reward runs/3/reward --out runs/averaged --evaluate

One model of the cost of one, less sure of the wrong labels that each of them learnt by heart. They must begin with
equal weights, a new head included, or a straight line between them leads through worse models.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from train.build import build_phase
from train.checkpoint import Checkpoint
from train.sections import completed
from train.step import TrainState
from train.weights import mean_of, refuse_other_models, write_weights


def average(checkpoints: Sequence[Checkpoint], out: str, *, evaluate: bool = False) -> dict[str, dict[str, float]]:
    """Writes the checkpoint `out`; returns the held-out figures of each and of `average` where these are wanted.

    Raises ValueError for fewer than two, for checkpoints of other models, and where nothing can be measured.
    """
    if len(checkpoints) < 2:
        raise ValueError(f"there is {len(checkpoints)} checkpoint to average; give two or more")
    refuse_other_models(checkpoints)
    figures_of = _measure(checkpoints[0]) if evaluate else None
    weights, buffers = (mean_of(checkpoints, item) for item in ("weights", "buffers"))
    found: dict[str, dict[str, float]] = {}
    if figures_of is not None:
        for checkpoint in checkpoints:
            found[str(checkpoint.path)] = figures_of(checkpoint.weights, checkpoint.buffers)
        found["average"] = figures_of(weights, buffers)
    origin = {"average of": [str(checkpoint.path) for checkpoint in checkpoints], "evaluation": found}
    write_weights(out, weights, buffers, checkpoints[0], origin)
    return found


def _measure(checkpoint: Checkpoint) -> Any:
    """What the phase of the checkpoint measures on held-out data, of any weights of its model."""
    phase = checkpoint.config["phases"][checkpoint.phase]
    if phase.get("teacher") is not None:
        raise ValueError(f"phase {checkpoint.phase!r} is measured with its teacher; leave out --evaluate")
    built = build_phase(completed(ConfigDict(checkpoint.config)), checkpoint.phase, None)
    evaluate = built.evaluate
    if evaluate is None:
        raise ValueError(f"phase {checkpoint.phase!r} holds nothing out; set `holdout` of a source, or do without")

    def figures(weights: Any, buffers: Any) -> dict[str, float]:
        params, buffers = jax.tree.map(jnp.asarray, (weights, buffers))
        return evaluate(TrainState(jnp.int32(0), params, buffers, (), None, None))  # type: ignore[arg-type]

    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m train.average", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", help="folders <workdir>/<phase>, their checkpoints or steps in them")
    parser.add_argument("--out", required=True, help="folder of the new checkpoint; must not exist")
    parser.add_argument("--evaluate", action="store_true", help="measure each and the average on what is held out")
    options = parser.parse_args(arguments)
    try:
        found = average([Checkpoint.open(path) for path in options.checkpoints], options.out, evaluate=options.evaluate)
    except ValueError as error:
        sys.exit(f"error: {error}")
    for name, figures in found.items():
        print(f"{name}: " + "  ".join(f"{figure} {value:.4f}" for figure, value in figures.items()))
    print(f"{options.out}: the average of {len(options.checkpoints)} checkpoints")


if __name__ == "__main__":
    main()
