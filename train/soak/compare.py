"""Whether two runs of one config ended alike, bit by bit, and whether one has lost anything that the other has."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np

from train.checkpoint import Checkpoint

ITEMS = ("params", "ema", "buffers", "training")


def differences(reference: Path, other: Path) -> list[str]:
    """What is not the same in a phase's folder of two runs, in words; empty where nothing is."""
    first, second = Checkpoint.open(reference), Checkpoint.open(other)
    found = [] if first.step == second.step else [f"the last step is {first.step} and {second.step}"]
    for item in ITEMS:
        found += _arrays(item, getattr(first, item), getattr(second, item))
    if first.meta["next_row"] != second.meta["next_row"]:
        found.append(f"the next row is {first.meta['next_row']} and {second.meta['next_row']}")
    totals = [run.meta["progress"]["totals"]["all_tokens"] for run in (first, second)]
    if totals[0] != totals[1]:
        found.append(f"{totals[0]:.0f} tokens were counted, and {totals[1]:.0f}")
    return found + _logs(reference, other)


def _arrays(item: str, first, second) -> list[str]:
    one, two = (jax.tree_util.tree_leaves_with_path(tree) for tree in (first, second))
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in one]
    if [path for path, _ in one] != [path for path, _ in two]:
        return [f"{item} has other names"]
    alike = [np.asarray(a).tobytes() == np.asarray(b).tobytes() for (_, a), (_, b) in zip(one, two, strict=True)]
    return [f"{item}/{name} differs" for name, same in zip(names, alike, strict=True) if not same]


def _logs(reference: Path, other: Path) -> list[str]:
    """Every figure of the reference's log has its line once, and held-out figures are the same.

    Means of a window may differ where a run was asked to stop within it.
    """
    steps, evaluations = {}, {}
    for folder in (reference, other):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        steps[folder] = [line["step"] for line in lines if "loss" in line]
        evaluations[folder] = [line for line in lines if any(name.startswith("eval/") for name in line)]
    found = []
    if steps[reference] != steps[other]:
        odd = sorted(set(steps[reference]) ^ set(steps[other])) or "in another order or twice"
        found.append(f"the log's steps differ: {odd}")
    if evaluations[reference] != evaluations[other]:
        found.append("evaluations differ")
    return found
