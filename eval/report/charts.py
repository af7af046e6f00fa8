"""Charts as inline SVG and PNG that follow the page's colours."""

from __future__ import annotations

import base64
import html
import io
import math

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 256, 148
LEFT, RIGHT, TOP, BOTTOM = 32, 246, 10, 126
MAX_POINTS = 120


def line_chart(steps: np.ndarray, values: np.ndarray, title: str) -> str:
    """A curve over steps: the mean of neighbouring steps as a line, their spread as a band."""
    steps, low, mean, high = _bins(steps, values)
    ticks = nice_ticks(float(low.min()), float(high.max()))
    x0, x1 = 0.0, max(float(steps[-1]), 1.0)
    y0, y1 = min(ticks[0], float(low.min())), max(ticks[-1], float(high.max()))
    x = LEFT + (steps - x0) / (x1 - x0) * (RIGHT - LEFT)

    def y(v: np.ndarray | float) -> np.ndarray:
        return BOTTOM - (np.asarray(v) - y0) / (y1 - y0) * (BOTTOM - TOP)

    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(t) + 3.5:.1f}" text-anchor="end">{t:g}</text>'
        for t in ticks
    )
    marks = [t for t in nice_ticks(x0, x1) if t <= x1]
    axis = "".join(
        f'<text x="{LEFT + t / x1 * (RIGHT - LEFT):.1f}" y="{BOTTOM + 16}" text-anchor="middle">{short(t)}</text>'
        for t in marks
    )
    told = html.escape(f"{title} from {mean[0]:.3g} to {mean[-1]:.3g}")
    band = _points(np.concatenate([x, x[::-1]]), np.concatenate([y(high), y(low)[::-1]]))
    return (
        f'<figure class="chart"><figcaption><b>{html.escape(title)}</b><span>{mean[-1]:.3g}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{told}">'
        f'{grid}{axis}<polygon class="band" points="{band}"/><polyline class="line" points="{_points(x, y(mean))}"/>'
        f'<circle class="end" cx="{x[-1]:.1f}" cy="{y(mean[-1]):.1f}" r="3"/></svg></figure>'
    )


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers that span low .. high."""
    if high - low < 1e-9 * max(abs(high), 1e-9):
        low, high = low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1)
    raw = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def short(number: float) -> str:
    """A count in three digits at most: 950, 1.2k, 34k, 5.6M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def heat_map(steps: np.ndarray, load: np.ndarray, title: str) -> str:
    """Share of tokens that each expert took, load[n,E] over steps, coloured by its ratio to the even share."""
    ratio = load * load.shape[1]
    columns = np.array([part.mean(axis=0) for part in np.array_split(ratio, min(len(ratio), MAX_POINTS))])
    source = png(_colours(columns.T[::-1] / 2))
    return (
        f'<figure class="chart heat"><figcaption><b>{html.escape(title)}</b>'
        f"<span>{load.shape[1]} experts</span></figcaption>"
        f'<img src="{source}" alt="Load of {load.shape[1]} experts over {len(load)} logged steps" '
        f'style="height:{max(72, 12 * load.shape[1])}px">'
        f'<div class="ends"><span>step {short(float(steps[0]))}</span>'
        f"<span>{short(float(steps[-1]))}: {columns[-1].min():.2f}–{columns[-1].max():.2f} × even</span></div></figure>"
    )


def scale_bar() -> str:
    """The legend of `heat_map`."""
    source = png(_colours(np.linspace(0, 1, 64)[None]))
    return f'<p class="scale">none <img src="{source}" alt="colour scale"> twice the even share or more</p>'


def png(pixels: np.ndarray) -> str:
    """uint8[H,W,3] as a data address."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return data_address("image/png", file.getvalue())


def data_address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _bins(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Step, lowest, mean and highest value of up to MAX_POINTS runs of neighbouring steps."""
    parts = np.array_split(np.arange(len(steps)), min(len(steps), MAX_POINTS))
    stack = [(steps[p].mean(), values[p].min(), values[p].mean(), values[p].max()) for p in parts]
    stack[-1] = (steps[-1], *stack[-1][1:])
    return tuple(np.array(stack).T)


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


RAMP = np.array([(24, 32, 66), (36, 84, 140), (46, 150, 152), (148, 200, 104), (250, 226, 96)])  # dark to light


def _colours(share: np.ndarray) -> np.ndarray:
    """float[H,W] in 0 .. 1 as uint8[H,W,3] along RAMP."""
    place = np.clip(share, 0, 1) * (len(RAMP) - 1)
    mixed = [np.interp(place, np.arange(len(RAMP)), RAMP[:, channel]) for channel in range(3)]
    return np.stack(mixed, axis=-1).astype(np.uint8)
