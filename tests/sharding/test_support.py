"""Cells of docs/support.md: a mesh of virtual devices leaves what one device leaves.

With SUPPORT_MATRIX=<file> all cells are computed and what is found is written there; without, some of each kind are,
and have to be what docs/support.json says.
"""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from docs import support as docs
from sharding.mesh import AXES
from tests.sharding.on_devices import FLAGS, outcome

RECORD = os.environ.get("SUPPORT_MATRIX")
ROOT = pathlib.Path(__file__).parents[2]
EVERY = {name: docs.cells(name) for name in (*docs.STACKS, *docs.PHASES)}
SOME = dict.fromkeys(("dense", "moe", "distill, stored", "local_decoder", "grpo", "lora", "siglip"), (docs.ALL,))
SOME["hybrid"] = (*AXES, docs.ALL)


def found(name: str, *sets: str) -> dict[str, str]:
    """Outcomes of a stack or a phase on sets of axes, computed in a process of their own."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"}
    command = [sys.executable, "-m", "tests.sharding.on_devices", name, *sets]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return {cell: said for line in lines for cell, said in line.items()}


def recorded() -> dict[str, dict[str, str]]:
    return json.loads(docs.OUTCOMES.read_text())


def record(path: pathlib.Path, name: str, outcomes: dict[str, str]) -> None:
    """Adds to what is known; several processes may do so at once."""
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known = json.loads(file.read() or "{}")
        known[name] = known.get(name, {}) | outcomes
        in_order = {
            key: {cell: known[key][cell] for axes in EVERY[key] for cell in docs.rows(key, axes) if cell in known[key]}
            for key in EVERY
            if key in known
        }
        file.truncate(0)
        file.write(json.dumps(in_order, indent=1) + "\n")


def test_a_step_on_a_mesh_leaves_what_it_leaves_on_one_device():
    axes = "context x tensor"
    assert found("dense", axes) == dict.fromkeys(docs.rows("dense", axes), docs.EQUAL)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY if RECORD else SOME)
def test_cells_are_what_the_page_says(name):
    outcomes = found(name, *(EVERY if RECORD else SOME)[name])
    if RECORD:
        record(ROOT / RECORD, name, outcomes)
    else:
        known = recorded().get(name, {})
        assert outcomes == {cell: known.get(cell, docs.EQUAL) for cell in outcomes}
    assert set(outcomes.values()) == {docs.EQUAL}


def test_the_page_is_that_of_what_was_found():
    page = (ROOT / "docs/support.md").read_text()
    assert page == docs.render(recorded()), "run `python -m docs.support > docs/support.md`"


def test_what_was_found_is_found_again_and_nothing_else(tmp_path):
    """Recording keeps what others recorded, in the order of the page."""
    path = tmp_path / "support.json"
    record(path, "flow", {docs.ALL: "equal"})
    record(path, "moe", {"fsdp, packed": "equal"})
    record(path, "moe", {"data, packed": "equal"})
    known = json.loads(path.read_text())
    assert [list(known), list(known["moe"])] == [["moe", "flow"], ["data, packed", "fsdp, packed"]]
    for name, outcomes in recorded().items():
        assert set(outcomes) <= {cell for axes in EVERY[name] for cell in docs.rows(name, axes)}


def test_a_difference_is_told_with_its_place():
    expected = {"params": {"a": np.array([100.0, 1.0]), "b": np.array([1e-9])}, "metrics": {"loss": 1e-7}}
    near = {"params": {"a": np.array([100.0, 1.0 + 9e-4]), "b": np.array([2e-9])}, "metrics": {"loss": 2e-6}}
    assert outcome(near, expected) == docs.EQUAL
    far = {"params": {"a": np.array([100.0, 1.01]), "b": np.array([1e-9])}, "metrics": {"loss": 1e-7}}
    assert outcome(far, expected) == "params/a differs by 1.0e-04"
    assert outcome({**expected, "metrics": {"loss": np.nan}}, expected) == "metrics/loss differs by inf"
