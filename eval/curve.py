"""Success over the number of demonstrations, drawn with Wilson intervals: one picture a case, one line a start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure
import matplotlib.ticker

COLOURS = {"checkpoint": "#2f5fd0", "scratch": "#9aa3b2"}
LABELS = {"checkpoint": "adapted", "scratch": "from scratch"}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes a PNG. rows: case, start, demonstrations, episodes, successes, low, high."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure = matplotlib.figure.Figure(figsize=(4.2 * len(cases), 3.4), dpi=150, layout="constrained")
    for axes, case in zip(figure.subplots(1, len(cases), sharey=True, squeeze=False)[0], cases, strict=True):
        counts = sorted({row["demonstrations"] for row in rows if row["case"] == case})
        for start in dict.fromkeys(row["start"] for row in rows):
            line = sorted(
                (row["demonstrations"], row["successes"] / row["episodes"], row["low"], row["high"])
                for row in rows
                if (row["case"], row["start"]) == (case, start)
            )
            x, y, low, high = (list(values) for values in zip(*line, strict=True))
            # An interval's bound and a rate at it are equal up to rounding.
            error = [[max(0.0, a - b) for a, b in zip(y, low, strict=True)]]
            error += [[max(0.0, b - a) for a, b in zip(y, high, strict=True)]]
            colour = COLOURS.get(start, "#17803d")
            axes.errorbar(x, y, error, color=colour, marker="o", capsize=3, label=LABELS.get(start, start))
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.set(title=case.replace("_", " "), xlabel="demonstrations", ylim=(-0.03, 1.03))
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
    figure.axes[0].set_ylabel("success, unseen episodes")
    figure.axes[-1].legend(frameon=False)
    aside = path.with_name(f"{path.name}.part")
    figure.savefig(aside, format="png")
    os.replace(aside, path)
