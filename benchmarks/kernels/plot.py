"""The figures as a picture: achieved rate of each implementation, and the measured ceiling as a line."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

OURS, PEER = "#1b6ca8", "#b9b9b9"


def draw(results_path: pathlib.Path) -> pathlib.Path:
    """Write a PNG beside the result file; returns its path."""
    results = json.loads(results_path.read_text())
    rows = [
        (case, direction, part["ceilings"], bars)
        for name, part in results["parts"].items()
        if name != "ceilings"
        for case, implementations in part["cases"].items()
        for direction, bars in _by_direction(implementations).items()
    ]
    columns = 3
    lines = max(1, -(-len(rows) // columns))
    figure, axes = pyplot.subplots(lines, columns, figsize=(13, 2.6 * lines), squeeze=False)
    for axis in axes.flat[len(rows) :]:
        axis.set_visible(False)
    for axis, row in zip(axes.flat, rows, strict=False):
        _draw_case(axis, *row)
    figure.tight_layout()
    path = results_path.with_suffix(".png")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def _by_direction(implementations: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """direction -> implementation -> figure, where there is one."""
    found: dict[str, dict[str, Any]] = {}
    for name, record in implementations.items():
        for direction, figure in record.get("directions", {}).items():
            if "rate" in figure:
                found.setdefault(direction, {})[name] = figure
    return found


def _draw_case(axis: Any, case: str, direction: str, ceilings: dict[str, float], figures: dict[str, Any]) -> None:
    names = list(reversed(figures))
    unit = figures[names[0]]["unit"]
    rates = [figures[name]["rate"] for name in names]
    # Rate and time are inverse: the fastest quartile is the upper end.
    low = [r - r * figures[n]["median_ms"] / figures[n]["q3_ms"] for n, r in zip(names, rates, strict=True)]
    high = [r * figures[n]["median_ms"] / figures[n]["q1_ms"] - r for n, r in zip(names, rates, strict=True)]
    axis.barh(names, rates, xerr=[low, high], color=[OURS if name == "ours" else PEER for name in names])
    if unit in ceilings:
        axis.axvline(ceilings[unit], color="black", linestyle="--", linewidth=1)
    axis.set_title(f"{case}, {direction}", fontsize=10)
    axis.set_xlabel(unit)
