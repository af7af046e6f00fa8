"""Every committed config trains on a mesh too: each step that the planner takes is lowered for several devices."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NO_CONFIG = ("__init__", "command", "schema")
PLANNED = ("gemini15_proxy", "gemma3_long", "hybrid_long")  # for thousands of devices: docs/plans.md
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in NO_CONFIG + PLANNED)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_its_phases_are_lowered_for_a_mesh(name):
    command = [sys.executable, "-m", "tests.configs.lowered", f"configs/{name}.py"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    outcomes = json.loads(run.stdout.splitlines()[-1])
    assert "lowered" in outcomes.values()
    for phase, outcome in outcomes.items():
        assert outcome == "lowered" or "can be planned" in outcome, phase
