"""Computes cells of docs/support.md on virtual devices: `python -m tests.sharding.on_devices dense "data x tensor" ...`

The first argument is a stack or a phase, the others are sets of axes. Prints a line of JSON, name of cell -> outcome,
for each set. It is a process of its own, as the number of devices is set before JAX first uses one.
"""

from __future__ import annotations

import json
import math
import sys
import traceback
from typing import Any

import jax
import numpy as np

from docs import support as docs
from sharding.mesh import AXES

FIGURES = ("metrics", "losses", "evaluation")
NUM_DEVICES = 2 ** len(AXES)
# The virtual devices wait for one another, on as few cores as there are, for longer than real ones ever should.
FLAGS = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=300 --xla_cpu_collective_call_terminate_timeout_seconds=900"
)


def sizes_of(axes: str) -> dict[str, int]:
    """Two devices along each of the named axes; "" = one device."""
    return {"data": 1} | dict.fromkeys(axes.split(" x ") if axes else (), 2)


def devices_of(sizes: dict[str, int]) -> list[jax.Device]:
    return jax.devices()[: math.prod(sizes.values())]


def outcome(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """`equal`, or where and by how much the trees of arrays differ most.

    An array is compared on the scale of its largest number, or of a thousandth of the largest in its tree; figures
    that are logged on a scale of at least 1.
    """
    worst, where = max(_difference(name, found[name], expected[name]) for name in expected)
    return docs.EQUAL if worst <= docs.TOLERANCE else f"{where} differs by {worst:.1e}"


def _difference(name: str, found: Any, expected: Any) -> tuple[float, str]:
    found, expected = (jax.tree.map(lambda x: np.asarray(x, np.float64), tree) for tree in (found, expected))
    largest = lambda x: float(np.abs(x).max(initial=0))  # noqa: E731
    least = 1.0 if name in FIGURES else max(map(largest, jax.tree.leaves(expected)), default=0) / 1000
    worst = 0.0, name
    for (path, b), a in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(found), strict=True):
        finite = np.isfinite(a).all() and np.isfinite(b).all()
        error = largest(a - b) / max(largest(b), least, 1e-30) if finite else math.inf
        worst = max(worst, (error, f"{name}/{jax.tree_util.keystr(path, simple=True, separator='/')}"))
    return worst


def main(name: str, *sets: str) -> None:
    jax.config.update("jax_num_cpu_devices", NUM_DEVICES)
    jax.config.update("jax_disable_most_optimizations", True)  # time goes into compiling
    if name in docs.STACKS:
        from tests.sharding.stacks import prepared
    else:
        from tests.sharding.phases import prepared
    with prepared(name) as outcomes_on:
        for axes in sets:
            try:
                found = outcomes_on(axes)
            except Exception as error:
                traceback.print_exc()
                found = {cell: f"fails: {str(error).splitlines()[0]}" for cell in docs.rows(name, axes)}
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
