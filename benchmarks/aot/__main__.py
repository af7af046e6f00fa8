"""Compile every case for one target; see the package."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks.aot import ptxas
from benchmarks.aot.cases import CASES
from benchmarks.aot.rules import broken, table

MACHINES = {"cuda": ["h200:1"], "tpu": ["v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"]}
RESULTS = pathlib.Path(__file__).parents[1] / "results"
COMPILERS = ("jax", "jaxlib", "jax-cuda13-plugin", "nvidia-cuda-nvcc", "libtpu")
TIMEOUT = 600  # seconds; a kernel takes a few


def rows_of(case: str, target: str) -> Iterator[dict[str, Any]]:
    """One row per machine, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "result.json")
        command = [sys.executable, "-m", "benchmarks.aot.compiled", case, str(out), *MACHINES[target]]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", **(ptxas.DUMPS if target == "cuda" else {})}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, timeout=TIMEOUT)
            text = (done.stdout + done.stderr).decode(errors="replace")
        except subprocess.TimeoutExpired:
            text = f"no result after {TIMEOUT} seconds"
        if out.exists():
            results = json.loads(out.read_text())
        else:
            last = ["", *text.strip().splitlines()][-1]
            results = {machine: {"error": f"the compiler's process ended: {last}"} for machine in MACHINES[target]}
    kernels = ptxas.read(text) if target == "cuda" else None
    for machine, result in results.items():
        told = {"kernels": [dataclasses.asdict(kernel) for kernel in kernels]} if kernels else {}
        yield {"case": case, "machine": machine, **result, **told, "broken": broken(result, kernels)}


def _versions() -> dict[str, str]:
    installed = {name: _version(name) for name in COMPILERS}
    return {name: version for name, version in installed.items() if version}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aot", description="Compile every kernel ahead of time.")
    parser.add_argument("--target", choices=sorted(MACHINES), required=True)
    parser.add_argument("--only", default="", help="cases whose name holds this; nothing is written without --out")
    parser.add_argument("--out", help="JSON file; benchmarks/results/aot-<target>-jax<version>.json for all cases")
    options = parser.parse_args()
    names = [name for name in CASES if options.only in name]
    rows = []
    for name in names:
        rows += rows_of(name, options.target)
        print(f"[{len(rows)}] {name}: {'BROKEN' if rows[-1]['broken'] else 'ok'}", file=sys.stderr, flush=True)
    print(table(rows))
    out = options.out or ("" if options.only else RESULTS / f"aot-{options.target}-jax{jax.__version__}.json")
    if out:
        result = {"target": options.target, "versions": _versions(), "cases": rows}
        pathlib.Path(out).write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(any(row["broken"] for row in rows))


if __name__ == "__main__":
    main()
