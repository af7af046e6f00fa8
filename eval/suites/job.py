"""A suite on a model: every item answered once, its record written as it comes, and what is missing done on a rerun."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.journal import Record, RecordFile, read_records
from eval.language import LanguageModel
from eval.suites.items import Item
from eval.wilson import wilson_interval

AT_ONCE = 32  # items between two writes


def rates(records: Sequence[Record], folder: Path) -> dict[str, Any]:
    """The mean of every metric over all records and, where there are several, in each group; truth values with their
    95 % Wilson interval."""
    del folder
    groups = collections.defaultdict(list)
    for record in records:
        groups[record["group"]].append(record)
    figures: dict[str, Any] = _means(records)
    if len(groups) > 1:
        figures["groups"] = {name: _means(members) for name, members in sorted(groups.items())}
    return figures


@dataclasses.dataclass(frozen=True)
class Suite:
    """`items` are of one kind. finish: from all records to the summary; it may put pictures into the folder."""

    name: str
    items: Sequence[Item]
    finish: Callable[[Sequence[Record], Path], dict[str, Any]] = rates


def run(suite: Suite, model: LanguageModel, folder: Path, report: Callable[[str], None] = print) -> dict[str, Any]:
    """The summary of a suite. `folder/<name>.jsonl` gets a line for each item; lines that it has are not done again.

    Raises:
        ValueError: if the suite has no items, or two of one identity.
    """
    ids = [item.id for item in suite.items]
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(
            f"suite {suite.name} has {len(ids)} items and {len(set(ids))} identities; allowed: one for each"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{suite.name}.jsonl"
    records = {record["id"]: record for record in read_records(path)}
    waiting = sorted((item for item in suite.items if item.id not in records), key=lambda item: -item.size)
    if len(waiting) < len(ids):
        report(f"{suite.name}: {len(ids) - len(waiting)} of {len(ids)} items are done")
    with RecordFile(path) as file:
        for start in range(0, len(waiting), AT_ONCE):
            chunk = waiting[start : start + AT_ONCE]
            answers = type(chunk[0]).answer(model, chunk)  # type: ignore[arg-type]
            file.append(answers)
            records |= {record["id"]: record for record in answers}
    return suite.finish([records[i] for i in ids], folder)


def _means(records: Sequence[Record]) -> dict[str, Any]:
    values: dict[str, list[Any]] = collections.defaultdict(list)
    for record in records:
        for name, value in record["metrics"].items():
            values[name] += value if isinstance(value, list) else [value]
    figures: dict[str, Any] = {"items": len(records)}
    if records and all("chance" in record for record in records):
        figures["chance"] = float(np.mean([record["chance"] for record in records]))
    for name, found in values.items():
        figures[name] = float(np.mean(found))
        if all(isinstance(value, bool) for value in found):
            figures[f"{name}_interval"] = list(wilson_interval(sum(found), len(found)))
    return figures
