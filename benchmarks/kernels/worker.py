"""One implementation on one case: checked, then timed, in each direction.

    python -m benchmarks.kernels.worker IMPLEMENTATION CASE SCALE ANSWERS RECORD

A process of its own, because JAX and PyTorch each want the whole memory, and because a crash, a poisoned device or a
hang must cost only its own figures. RECORD (JSON) is written again after every figure, so a killed worker leaves what
it had. With "reference" as the implementation it writes ANSWERS instead.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.kernels import timing
from benchmarks.kernels.cases import Arrays, Case
from benchmarks.kernels.parts import case_named
from benchmarks.kernels.peers import NotSupported

Record = dict[str, Any]


def main(arguments: list[str]) -> None:
    name, case_name, scale, answers_path, record_path = arguments
    case = case_named(case_name, scale)  # type: ignore[arg-type]
    if name == "reference":
        from benchmarks.kernels.reference import answers

        np.savez(answers_path, **answers(case))
        return
    with np.load(answers_path) as stored:
        answers_of_case = dict(stored)
    quick = {} if scale == "full" else {"repeats": 3, "sample_seconds": 0.0}
    run(case, name, answers_of_case, functools.partial(write, record_path), **quick)


def write(path: str, record: Record) -> None:
    """Replace the file at once: a reader never meets half of it."""
    temporary = pathlib.Path(f"{path}.part")
    temporary.write_text(json.dumps(record, indent=1))
    os.replace(temporary, path)


def run(case: Case, name: str, answers: Arrays, report: Callable[[Record], None], **timing_options: Any) -> Record:
    """`status` is that of the set-up; each direction has its own: ok, wrong, not supported or failed."""
    record: Record = {"status": "running", "versions": {}, "directions": {}}
    try:
        peer = importlib.import_module(f"benchmarks.kernels.peers.{name}")
        record["versions"] = peer.run.versions() | (peer.versions() if hasattr(peer, "versions") else {})
        if not hasattr(peer, case.operation):
            raise NotSupported(f"{name} has no {case.operation}")
        runner = peer.run.Runner(case, getattr(peer, case.operation)(case))
    except Exception as error:
        report(record | _refusal(error))
        return record | _refusal(error)
    checked: dict[str, tuple[dict[str, float], Record]] = {}
    for direction in case.directions:
        report(record)
        kind = "outputs" if direction == "forward" else "gradients"
        if kind not in checked:
            checked[kind] = _check(getattr(runner, kind), answers, case.tolerance)
        errors, verdict = checked[kind]
        if verdict["status"] == "ok":
            verdict = verdict | _time(runner, case, direction, peer.run.wait, timing_options)
        record["directions"][direction] = verdict | {"errors": errors}
    record["status"] = "ok"
    report(record)
    return record


def _check(compute: Callable[[], Arrays], answers: Arrays, tolerance: float) -> tuple[dict[str, float], Record]:
    """Relative error of each array, and whether all are within the tolerance; NaN is not."""
    try:
        errors = {name: relative_error(array, answers[name]) for name, array in compute().items()}
    except Exception as error:
        return {}, _refusal(error)
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    if wrong:
        return errors, {"status": "wrong", "reason": f"relative errors {wrong} above {tolerance}"}
    return errors, {"status": "ok"}


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what is expected."""
    if actual.shape != expected.shape:
        return float("inf")
    difference = np.linalg.norm((actual - expected).astype(np.float64))
    return float(difference / max(np.linalg.norm(expected.astype(np.float64)), 1e-30))


def _time(runner: Any, case: Case, direction: str, wait: Callable[[Any], Any], options: Any) -> Record:
    try:
        spread = timing.measure(runner.call(direction), wait, **options)
    except Exception as error:
        return _refusal(error)
    scale = {"TFLOP/s": 1e9, "GB/s": 1e6}[case.unit]
    return spread | {"rate": case.work(direction) / spread["median_ms"] / scale, "unit": case.unit}


def _refusal(error: Exception) -> Record:
    refused = isinstance(error, (NotSupported, NotImplementedError, ImportError))
    if not refused:
        traceback.print_exception(error)
    return {"status": "not supported" if refused else "failed", "reason": f"{type(error).__name__}: {error}"[:600]}


if __name__ == "__main__":
    main(sys.argv[1:])
