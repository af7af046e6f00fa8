"""Runs a module in a process of its own that has eight virtual devices, and reads what it prints last, as JSON."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
# The devices wait for one another, on as few cores as there are, for longer than real ones ever should.
FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=300",
    "--xla_cpu_collective_call_terminate_timeout_seconds=900",
)


def results_of(module: str, *arguments: str) -> Any:
    """What `python -m module arguments` finds on eight devices of the CPU."""
    flags = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS]).strip()
    run = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])
