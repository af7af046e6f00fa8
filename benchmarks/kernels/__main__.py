"""Our kernels against what a user would pick instead.

    python -m benchmarks.kernels --part attention [--scale full] [--out benchmarks/results/kernels.json]
    python -m benchmarks.kernels --check
    python -m benchmarks.kernels --plot benchmarks/results/kernels.json

Parts: ceilings, attention, window, packed, scan, moe, decode, or all; each ends within ten minutes on an H200 and
measures the ceilings first, in the same run. Parts already in the result file stay. `--scale small` runs tiny shapes,
on a CPU too. `--check` compares every kernel's values and gradients with its reference on the device.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import time
from typing import Any

from benchmarks import machine
from benchmarks.kernels import bars, suite
from benchmarks.kernels.cases import Scale
from benchmarks.kernels.parts import PARTS

DEFAULT_OUT = "benchmarks/results/kernels.json"
PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "numpy", "tokamax", "torch", "triton", "nvidia-cudnn-cu13")


def measure(parts: tuple[str, ...], scale: Scale, out: pathlib.Path, launch: suite.Launch) -> dict[str, Any]:
    """Run the parts and keep the file up to date; returns its content."""
    results = json.loads(out.read_text()) if out.exists() else {"parts": {}}
    out.parent.mkdir(parents=True, exist_ok=True)
    head = {"scale": scale, "machine": machine.describe(PACKAGES), "started": time.strftime("%Y-%m-%d %H:%M:%S")}

    def save(part: str, ceilings: dict[str, float], cases: dict[str, Any]) -> None:
        results["parts"][part] = {**head, "ceilings": ceilings, "cases": cases}
        out.write_text(json.dumps(results, indent=1) + "\n")

    figures = suite.run_part("ceilings", scale, {}, functools.partial(save, "ceilings", {}), launch)
    ceilings = suite.ceilings_of(figures)
    save("ceilings", ceilings, figures)
    for part in parts:
        suite.run_part(part, scale, ceilings, functools.partial(save, part, ceilings), launch)
    return results


def main(arguments: list[str] | None = None, launch: suite.Launch = suite.in_a_process) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description="Speed of the kernels.")
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(DEFAULT_OUT))
    parser.add_argument("--check", action="store_true", help="numerics on the device instead of speed")
    parser.add_argument("--plot", metavar="RESULTS", help="draw a result file instead of measuring")
    options = parser.parse_args(arguments)
    if options.plot:
        from benchmarks.kernels.plot import draw

        print(draw(pathlib.Path(options.plot)))
    elif options.check:
        from benchmarks.kernels.numerics import check

        check(options.scale, options.out.with_name("numerics.json"))
    else:
        parts = tuple(part for part in PARTS if part != "ceilings" and options.part in (part, "all"))
        print(bars.table(measure(parts, options.scale, options.out, launch)))
        if (picture := _plot_if_possible(options.out)) is not None:
            print(picture)


def _plot_if_possible(out: pathlib.Path) -> pathlib.Path | None:
    try:
        from benchmarks.kernels.plot import draw
    except ImportError:  # no matplotlib here: `--plot` draws the file elsewhere
        return None
    return draw(out)


if __name__ == "__main__":
    main()
