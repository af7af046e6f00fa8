"""Loss against position: what a model gains from a longer context, and the power law that it follows.

Gemini 1.5 (arXiv 2403.05530, section 4.2.1.1) fits L(x) = a x^b + c to negative log-likelihood at position x, with R^2
of 0.997 on documents. Its points average over all positions up to x; ours over those of one bucket, which smooths less.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from data.vocabulary import Vocabulary
from eval.long.heatmap import write_png
from eval.suites.items import Passage, Record
from eval.suites.job import Suite

PER_OCTAVE = 2  # buckets of positions in each doubling
FIRST = 8  # the first bucket ends here


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """loss = a x^b + c."""

    a: float
    b: float
    c: float
    r_squared: float

    def __call__(self, position_N: np.ndarray) -> np.ndarray:
        return self.a * position_N**self.b + self.c


def suite(vocabulary: Vocabulary, texts: Sequence[Path], lengths: Sequence[int], samples: int) -> Suite:
    """`samples` documents of the greatest length in tokens from each text, evenly spaced, each after <bos>.

    Raises ValueError where a text has not so many.
    """
    if not texts:
        raise ValueError("suite position needs --text FILE, long documents")
    length, items = max(lengths), []
    if length < 4 * FIRST:
        raise ValueError(f"--lengths ends at {length}; suite position needs at least {4 * FIRST}")
    for path in texts:
        ids = vocabulary.encode(path.read_text())
        if len(ids) < length:
            raise ValueError(f"--text {path} has {len(ids)} tokens, --lengths asks for {length}; give a longer text")
        for sample in range(samples):
            start = sample * (len(ids) - length) // max(1, samples - 1)
            document = tuple(ids[start : start + length])
            items.append(Passage(f"{path}:{start}", str(path), (vocabulary.bos_id,), document, each=True))
    unique = {item.id: item for item in items}  # a text that is hardly longer gives the same place twice
    return Suite("position", list(unique.values()), finish)


def finish(records: Sequence[Record], folder: Path) -> dict[str, Any]:
    """Mean loss of each bucket of positions, the power law through them; draws `position.png`."""
    nll_NT = np.array([record["nats_each"] for record in records])
    position_K, loss_K, error_K = buckets(nll_NT)
    law = fit(position_K, loss_K)
    _draw(folder / "position.png", position_K, loss_K, error_K, law)
    return {
        "items": len(records),
        "position": position_K.tolist(),
        "nats_per_token": loss_K.tolist(),
        "standard_error": error_K.tolist(),
        **dataclasses.asdict(law),
    }


def buckets(nll_NT: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(position, mean loss, its standard error over documents) of buckets whose bounds grow by a constant factor.

    A bucket's position is the geometric mean of its bounds, counted from 1.
    """
    N, T = nll_NT.shape
    count = int(np.floor(PER_OCTAVE * np.log2(T / FIRST)))
    inner = np.round(FIRST * 2.0 ** (np.arange(count + 1) / PER_OCTAVE)).astype(int)
    bounds = np.unique([0, *inner[inner < T], T])
    means_NK = np.stack([nll_NT[:, low:high].mean(1) for low, high in itertools.pairwise(bounds)], axis=1)
    position_K = np.sqrt((bounds[:-1] + 1) * bounds[1:])
    spread_K = means_NK.std(0, ddof=1) / np.sqrt(N) if N > 1 else np.zeros(means_NK.shape[1])
    return position_K, means_NK.mean(0), spread_K


def fit(position_K: np.ndarray, loss_K: np.ndarray) -> PowerLaw:
    """Least squares: for each exponent a and c are linear, and the best exponent below 0 is found by refining a grid.

    Raises ValueError for fewer than four points.
    """
    if len(position_K) < 4:
        raise ValueError(f"a power law has three numbers and {len(position_K)} points are given; needed: 4")
    low, high = -4.0, -0.01
    for _ in range(12):
        grid = np.linspace(low, high, 41)
        errors = [_linear(position_K, loss_K, b)[1] for b in grid]
        best = int(np.argmin(errors))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    b = float(grid[best])
    (a, c), error = _linear(position_K, loss_K, b)
    total = float(np.sum((loss_K - loss_K.mean()) ** 2))
    return PowerLaw(float(a), b, float(c), 1 - error / total if total > 0 else 1.0)


def _linear(position_K: np.ndarray, loss_K: np.ndarray, b: float) -> tuple[np.ndarray, float]:
    design = np.stack([position_K**b, np.ones_like(position_K)], axis=1)
    solution, *_ = np.linalg.lstsq(design, loss_K, rcond=None)
    return solution, float(np.sum((design @ solution - loss_K) ** 2))


def _draw(path: Path, position_K: np.ndarray, loss_K: np.ndarray, error_K: np.ndarray, law: PowerLaw) -> None:
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.errorbar(position_K, loss_K, 2 * error_K, fmt="o", markersize=5, color="#00204d", capsize=2, label="measured")
    smooth = np.geomspace(position_K[0], position_K[-1], 200)
    text = f"{law.a:.2f} x$^{{{law.b:.3f}}}$ {'+' if law.c >= 0 else '−'} {abs(law.c):.2f},  R² = {law.r_squared:.3f}"
    axes.plot(smooth, law(smooth), color="#c9a227", linewidth=2, label=text, zorder=1)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("position in the document (tokens)")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title("Loss against position (bars: two standard errors)", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.legend(frameon=False)
    write_png(figure, path)
