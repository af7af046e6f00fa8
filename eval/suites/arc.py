"""ARC (arXiv 1803.05457): multiple-choice science questions, one group for each file `arc/*.jsonl`."""

from __future__ import annotations

from pathlib import Path

from eval.suites.files import find, lines
from eval.suites.items import Choice


def items(data: Path) -> list[Choice]:
    """Lines with query, choices and gold, an index."""
    return [
        Choice(f"{file.stem}:{i}", file.stem, f"{line['query']}\nAnswer:", tuple(line["choices"]), line["gold"])
        for file in find(data, "arc/*.jsonl")
        for i, line in enumerate(lines(file, "query", "choices", "gold"))
    ]
