"""Merge policies that were tuned from one start, as WARP does (arXiv 2406.16768): more reward at equal KL than any one.

    python -m train.merge runs/1/attempt runs/2/attempt --init runs/1/imitate --out runs/merged --share 0.8 [--evaluate]

Each weight moves by the spherical mean of the policies' moves (stage 2 there), of which a share is taken (stage 3, an
interpolation towards the start). Stage 1, a moving average as anchor, is `anchor` of the objective grpo.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from train.checkpoint import Checkpoint
from train.optimizer import name_of
from train.stored import stored
from train.weights import held_out_figures, print_figures, refuse_other_models, write_weights

_STACKED = "stack/repeated/"  # names of parameters whose first dim counts layers
_FRONT = (0.2, 0.4, 0.6, 0.8, 1.0)  # shares that are measured


def slerp(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """From a to b at an even turn: (sin((1 - share) angle) a + sin(share angle) b) / sin(angle); a straight line where
    there is no angle between them."""
    a64, b64 = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = np.linalg.norm(a64) * np.linalg.norm(b64)
    cosine = np.sum(a64 * b64) / norms if norms else 1.0
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if np.sin(angle) < 1e-6:
        return (1 - share) * a64 + share * b64
    return (np.sin((1 - share) * angle) * a64 + np.sin(share * angle) * b64) / np.sin(angle)


def merged_weight(init: np.ndarray, policies: Sequence[np.ndarray], share: float, *, stacked: bool) -> np.ndarray:
    """One parameter: init + share * spherical mean of the moves away from it, layer by layer where `stacked`.

    The mean of several moves takes them in one after the other, the m-th with the share 1/m (appendix B.2 there).
    """
    if stacked:
        layers = zip(init, *policies, strict=True)
        return np.stack([merged_weight(first, rest, share, stacked=False) for first, *rest in layers])
    start = np.asarray(init, np.float64)
    mean = np.asarray(policies[0], np.float64) - start
    for m, policy in enumerate(policies[1:], start=2):
        mean = slerp(mean, np.asarray(policy, np.float64) - start, 1 / m)
    return (start + share * mean).astype(init.dtype)


def merge(init: Checkpoint, policies: Sequence[Checkpoint], share: float) -> Any:
    """The merged weights, one array of all in memory at a time. Raises ValueError for checkpoints of other models."""
    if not policies:
        raise ValueError("there is no policy to merge; give one or more")
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it must be above 0 and at most 1, which keeps the whole move")
    refuse_other_models([init, *policies])

    def one(path: Any, first: Any, *rest: Any) -> np.ndarray:
        arrays = [np.asarray(leaf) for leaf in rest]
        return merged_weight(np.asarray(first), arrays, share, stacked=name_of(path).startswith(_STACKED))

    return jax.tree_util.tree_map_with_path(one, *(stored(checkpoint, "weights") for checkpoint in (init, *policies)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m train.merge", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("policies", nargs="+", help="folders <workdir>/<phase>, their checkpoints or steps in them")
    parser.add_argument("--init", required=True, help="the checkpoint that all of them began with")
    parser.add_argument("--out", required=True, help="folder of the new checkpoint; must not exist")
    parser.add_argument("--share", type=float, default=1.0, help="of the way from init to the merged policies")
    parser.add_argument("--evaluate", action="store_true", help="measure all of them, the merge at several shares")
    options = parser.parse_args(arguments)
    try:
        init, *policies = (Checkpoint.open(path) for path in (options.init, *options.policies))
        weights = merge(init, policies, options.share)
        found: dict[str, dict[str, float]] = {}
        if options.evaluate:
            figures_of, buffers = held_out_figures(policies[0], init), policies[0].buffers
            for checkpoint in (init, *policies):
                found[str(checkpoint.path)] = figures_of(checkpoint.weights, buffers)
            for share in _FRONT:
                found[f"merged, share {share}"] = figures_of(merge(init, policies, share), buffers)
        origin = {"merge of": [str(p.path) for p in policies], "init": str(init.path), "share": options.share}
        write_weights(options.out, weights, policies[0].buffers, policies[0], {**origin, "evaluation": found})
    except ValueError as error:
        sys.exit(f"error: {error}")
    print_figures(found)
    print(f"{options.out}: {len(policies)} policies merged")


if __name__ == "__main__":
    main()
