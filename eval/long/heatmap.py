"""Shares as a picture: one square a pair of conditions, its figure written in it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def heatmap(path: Path, share_RC: np.ndarray, rows: Sequence[str], columns: Sequence[str], labels: dict[str, str]):
    """Writes a PNG. share_RC: in [0, 1], NaN where nothing was measured. labels: `title`, `rows`, `columns`, `bar`."""
    R, C = share_RC.shape
    figure = Figure(figsize=(max(5.0, 2.6 + 0.85 * C), 1.6 + 0.42 * R), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share_RC, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(C), columns)
    axes.set_yticks(range(R), rows)
    axes.set_xlabel(labels["columns"])
    axes.set_ylabel(labels["rows"])
    axes.set_title(labels["title"], fontsize=11)
    axes.set_xticks(np.arange(0.5, C - 1), minor=True)
    axes.set_yticks(np.arange(0.5, R - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for row, column in zip(*np.nonzero(~np.isnan(share_RC)), strict=True):
        share = share_RC[row, column]
        colour = "white" if share < 0.55 else "black"
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=9)
    bar = figure.colorbar(image, ax=axes, label=labels["bar"], ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.ax.set_yticklabels(["0", "25", "50", "75", "100"])
    bar.outline.set_visible(False)  # type: ignore[union-attr]
    write_png(figure, path)


def write_png(figure: Figure, path: Path) -> None:
    """Written aside, then renamed."""
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    aside = path.with_name(f"{path.name}.new")
    aside.write_bytes(content.getvalue())
    aside.replace(path)


def short(length: int) -> str:
    """1024 is 1k, 131072 is 128k."""
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)
