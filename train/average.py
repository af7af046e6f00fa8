"""Average the weights of models fine-tuned from one start, as WARM does with reward models (arXiv 2401.12187).

    python -m train.average runs/1/reward runs/2/reward runs/3/reward --out runs/averaged --evaluate

One model of the cost of one, less sure of the wrong labels that each of them learnt by heart. They must begin with
equal weights, a new head included, or a straight line between them leads through worse models.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from train.checkpoint import Checkpoint
from train.weights import held_out_figures, mean_of, print_figures, refuse_other_models, write_weights


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


def _measure(checkpoint: Checkpoint) -> Callable[[Any, Any], dict[str, float]]:
    if checkpoint.config["phases"][checkpoint.phase].get("teacher") is not None:
        raise ValueError(f"phase {checkpoint.phase!r} is measured with its teacher; leave out --evaluate")
    return held_out_figures(checkpoint)


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
    print_figures(found)
    print(f"{options.out}: the average of {len(options.checkpoints)} checkpoints")


if __name__ == "__main__":
    main()
