"""All workers of a part, one after the other, within the time a part may take."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks.kernels.cases import Case, Scale
from benchmarks.kernels.parts import IMPLEMENTATIONS, NEEDS, cases

PART_SECONDS = 540.0  # of ten minutes; the rest is for starting and writing
WORKER_SECONDS = 200.0
# One process at a time has the device, so JAX may take nearly all of it: scans by XLA need it.
ENVIRONMENT = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92", "TF_CPP_MIN_LOG_LEVEL": "2"}

Record = dict[str, Any]
Launch = Callable[[list[str], float], str]


def in_a_process(arguments: list[str], seconds: float) -> str:
    """Run a worker; returns what went wrong, or nothing."""
    command = [sys.executable, "-m", "benchmarks.kernels.worker", *arguments]
    try:
        done = subprocess.run(command, env={**ENVIRONMENT, **os.environ}, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    return "" if done.returncode == 0 else f"the process ended with code {done.returncode}"


def run_part(
    part: str,
    scale: Scale,
    ceilings: dict[str, float],
    save: Callable[[Record], None],
    launch: Launch = in_a_process,
) -> Record:
    """Figures of every implementation on every case of the part; `save` gets them after each.

    `ceilings` are the measured rates by unit; a figure's `of_ceiling` is its share of the one with its unit.
    """
    deadline = time.monotonic() + PART_SECONDS
    figures: Record = {}
    for case in cases(part, scale):
        figures[case.name] = {}
        with tempfile.TemporaryDirectory() as folder:
            answers, record_path = f"{folder}/answers.npz", f"{folder}/record.json"
            problem = launch(["reference", case.name, scale, answers, record_path], _budget(deadline))
            for name in IMPLEMENTATIONS[part]:
                if problem:
                    record = {"status": "failed", "reason": f"no reference to check against: {problem}"}
                else:
                    record = _run_one(case, name, [name, case.name, scale, answers, record_path], deadline, launch)
                figures[case.name][name] = with_ceilings(record, ceilings)
                print(one_line(case.name, name, record), flush=True)
                save(figures)
    return figures


def _run_one(case: Case, name: str, arguments: list[str], deadline: float, launch: Launch) -> Record:
    if missing := [package for package in NEEDS.get(name, ()) if importlib.util.find_spec(package) is None]:
        return {"status": "not installed", "reason": f"needs the package {' and '.join(missing)}"}
    if _budget(deadline) <= 0:
        return {"status": "failed", "reason": f"no time left of the part's {PART_SECONDS:.0f} s"}
    record_path = pathlib.Path(arguments[-1])
    record_path.unlink(missing_ok=True)
    problem = launch(arguments, _budget(deadline))
    record = json.loads(record_path.read_text()) if record_path.exists() else {"directions": {}}
    if problem:
        late = {direction: {"status": "failed", "reason": problem} for direction in case.directions}
        record |= {"status": "failed", "reason": problem, "directions": late | record["directions"]}
    return record


def _budget(deadline: float) -> float:
    return min(WORKER_SECONDS, deadline - time.monotonic())


def with_ceilings(record: Record, ceilings: dict[str, float]) -> Record:
    """The record with each figure's share of the measured ceiling of its unit."""
    for figure in record.get("directions", {}).values():
        if figure.get("unit") in ceilings:
            figure["of_ceiling"] = figure["rate"] / ceilings[figure["unit"]]
    return record


def ceilings_of(figures: Record) -> dict[str, float]:
    """The best rate of any framework's product and copy, by unit."""
    best: dict[str, float] = {}
    for implementations in figures.values():
        for record in implementations.values():
            for figure in record.get("directions", {}).values():
                if "rate" in figure:
                    best[figure["unit"]] = max(best.get(figure["unit"], 0.0), figure["rate"])
    return best


def one_line(case: str, name: str, record: Record) -> str:
    """A worker's outcome for the log."""
    if not record.get("directions"):
        return f"{case:16} {name:16} {record['status']}: {record.get('reason', '')[:160]}"
    told = []
    for direction, figure in record["directions"].items():
        if "rate" in figure:
            share = f", {figure['of_ceiling']:.0%}" if "of_ceiling" in figure else ""
            told.append(f"{direction} {figure['median_ms']:.3f} ms ({figure['rate']:.0f} {figure['unit']}{share})")
        else:
            told.append(f"{direction} {figure['status']}: {figure.get('reason', '')[:160]}")
    return f"{case:16} {name:16} {'; '.join(told)}"
