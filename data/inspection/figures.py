"""Pictures of a dataset: how long its episodes are, every number over time, and what its cameras saw."""

from __future__ import annotations

import math
import pathlib
import re

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from data.elements import CorruptRecord
from data.inspection.checks import episode_number, numeric
from data.inspection.files import spread
from data.inspection.summary import dim_names
from data.lerobot import layout
from data.robot_dataset import RobotDataset

EPISODES, FRAMES, MAX_DIMS = 6, 7, 64  # drawn of a dataset, of an episode, of a feature
MIN_WIDTH = 96  # pixels of a thumbnail


def write_figures(dataset: RobotDataset, out: pathlib.Path) -> list[pathlib.Path]:
    """lengths.png, one PNG for each vector and each camera. Returns the files."""
    matplotlib.use("Agg")
    figures: dict[str, Figure | PillowImage.Image] = {"lengths": _lengths(dataset)}
    for name in numeric(dataset):
        if dataset.features[name]["shape"][0] <= MAX_DIMS:
            figures[name] = _numbers(dataset, name)
    for name, feature in dataset.features.items():
        if layout.is_visual(feature):
            figures[name] = _camera(dataset, name)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in figures.items():
        files.append(out / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.png")
        if isinstance(figure, Figure):
            figure.savefig(files[-1], dpi=100)
            plt.close(figure)
        else:
            figure.save(files[-1])
    return files


def _lengths(dataset: RobotDataset) -> Figure:
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    axes.hist(dataset.episode_lengths / (dataset.fps or 1), bins=min(40, max(5, dataset.num_episodes)), color="#4477aa")
    axes.set_xlabel("length of an episode, " + ("s" if dataset.fps else "frames"))
    axes.set_ylabel("episodes")
    return figure


def _numbers(dataset: RobotDataset, name: str) -> Figure:
    """A panel a dim: some episodes over time, and the band that holds 98 % of all frames."""
    values_NA = dataset.column(name).astype(np.float64)
    width, names = values_NA.shape[1], dim_names(dataset.features[name])
    columns = min(4, width)
    rows = math.ceil(width / columns)
    high, wide = 1.7 * rows + 0.8, 3.2 * columns
    figure, panels = plt.subplots(rows, columns, figsize=(wide, high), squeeze=False)
    figure.subplots_adjust(0.5 / wide, 0.4 / high, 1 - 0.1 / wide, 1 - 0.6 / high, wspace=0.25, hspace=0.4)
    chosen = spread(dataset.num_episodes, EPISODES)
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(chosen)))
    for dim, axes in enumerate(panels.flat):
        if dim >= width:
            axes.set_axis_off()
            continue
        finite_N = values_NA[np.isfinite(values_NA[:, dim]), dim]
        if len(finite_N):
            axes.axhspan(*np.quantile(finite_N, (0.01, 0.99)), color="#dddddd", linewidth=0)
        for episode, colour in zip(chosen, colours, strict=True):
            part = values_NA[dataset.starts[episode] : dataset.starts[episode + 1], dim]
            axes.plot(np.arange(len(part)) / (dataset.fps or 1), part, color=colour, linewidth=0.9)
        axes.set_title(f"{dim} {names[dim]}".strip(), fontsize=8)
        axes.tick_params(labelsize=7)
    unit = "seconds" if dataset.fps else "frames"
    title = f"{name} over {unit}: {len(chosen)} episodes; grey: 1st to 99th percentile"
    figure.suptitle(title, x=0.5, y=1 - 0.1 / high, va="top", fontsize=9)
    return figure


def _camera(dataset: RobotDataset, name: str) -> PillowImage.Image:
    """A row an episode, from its first to its last frame, at the size they are stored; one that cannot be read is
    red."""
    height, width, _ = dataset.features[name]["shape"]
    scale = max(1, math.ceil(MIN_WIDTH / width))
    cell = width * scale + 4, height * scale + 4
    chosen, font = spread(dataset.num_episodes, EPISODES), ImageFont.load_default(12)
    sheet = PillowImage.new("RGB", (cell[0] * FRAMES, (cell[1] + 18) * len(chosen)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, episode in enumerate(chosen):
        top = row * (cell[1] + 18)
        steps = spread(int(dataset.episode_lengths[episode]), FRAMES)
        said = dataset.tasks.get(int(dataset.column("task_index")[dataset.starts[episode], 0]), "")
        draw.text(
            (2, top + 2),
            f"episode {episode_number(dataset, episode)}, frames {steps[0]} to {steps[-1]}: {said}",
            "black",
            font,
        )
        for column, step in enumerate(steps):
            try:
                picture = PillowImage.fromarray(dataset.frame(episode, step, [name])[name])
            except CorruptRecord:
                picture = PillowImage.new("RGB", (width, height), "#cc3311")
            picture = picture.resize((width * scale, height * scale), PillowImage.Resampling.NEAREST)
            sheet.paste(picture, (column * cell[0], top + 18))
    return sheet
