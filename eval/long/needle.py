"""Needle in a haystack (Kamradt 2023; Gemini 1.5, arXiv 2403.05530, section 4.2.1): one sentence in a book, asked for.

The sentence stands at eleven depths, evenly spaced from the beginning to the end of prompts of each length.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.vocabulary import Vocabulary
from eval.long.haystack import Book, fill, spread
from eval.long.heatmap import heatmap, short
from eval.suites.items import Open, Record
from eval.suites.job import Suite, rates

DEPTHS = tuple(percent / 100 for percent in range(0, 101, 10))
NUM_TOKENS = 24  # enough for seven digits, however they are divided
CITIES = (
    *("Amsterdam", "Athens", "Bangkok", "Berlin", "Bogota", "Cairo", "Chicago", "Delhi", "Dublin", "Geneva"),
    *("Helsinki", "Istanbul", "Jakarta", "Kyoto", "Lagos", "Lima", "Lisbon", "London", "Madrid", "Manila"),
    *("Melbourne", "Mexico City", "Nairobi", "Oslo", "Paris", "Prague", "Rome", "Seoul", "Toronto", "Vienna"),
)


def suite(vocabulary: Vocabulary, texts: Sequence[Path], lengths: Sequence[int], samples: int, seed: int) -> Suite:
    """`samples` prompts for each length and depth; a length counts prompt and answer, in the vocabulary's tokens."""
    book = Book(texts)
    items = [
        item(vocabulary, book, length, depth, (seed, length, round(100 * depth), sample))
        for length in lengths
        for depth in DEPTHS
        for sample in range(samples)
    ]
    return Suite("needle", items, finish)


def item(vocabulary: Vocabulary, book: Book, length: int, depth: float, seed: tuple[int, ...]) -> Open:
    rng = np.random.default_rng(seed)
    city, number = str(rng.choice(CITIES)), str(rng.integers(1_000_000, 10_000_000))
    start = int(rng.integers(len(book.sentences)))
    needle = f"The special magic {city} number is: {number}."
    question = f"\n\nWhat is the special magic {city} number?\nThe special magic {city} number is:"

    def build(n: int) -> tuple[str, None]:
        return " ".join(spread(book.read(start, n), [needle], [depth])) + question, None

    prompt, _ = fill(vocabulary, build, length - NUM_TOKENS)
    name = f"{length}:{round(100 * depth)}:{seed[-1]}"
    return Open(
        name,
        str(length),
        prompt,
        lambda text: {"recall": number in text},
        NUM_TOKENS,
        stop=("\n",),
        notes={"depth": depth, "number": number},
    )


def finish(records: Sequence[Record], folder: Path) -> dict[str, Any]:
    """Recall by length, and by length and depth; draws `needle.png`."""
    figures = rates(records, folder)
    lengths = sorted({int(record["group"]) for record in records})
    share_RC = np.full((len(DEPTHS), len(lengths)), np.nan)
    for row, depth in enumerate(DEPTHS):
        for column, length in enumerate(lengths):
            found = [r["metrics"]["recall"] for r in records if (r["depth"], r["group"]) == (depth, str(length))]
            share_RC[row, column] = np.mean(found) if found else np.nan
    labels = {
        "title": f"Needle in a haystack: recall, {len(records)} prompts",
        "rows": "depth of the needle (%)",
        "columns": "length (tokens)",
        "bar": "recall (%)",
    }
    depths = [f"{round(100 * depth)}" for depth in DEPTHS]
    heatmap(folder / "needle.png", share_RC, depths, [short(length) for length in lengths], labels)
    return figures | {"lengths": lengths, "depths": list(DEPTHS), "recall_by_depth_and_length": share_RC.tolist()}
