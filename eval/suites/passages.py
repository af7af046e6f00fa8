"""Bits per byte of text files: each is one text, every token predicted once from what the model's context holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.language import LanguageModel
from eval.suites.items import Passage, Record
from eval.suites.job import Suite


def suite(model: LanguageModel, texts: Sequence[Path], limit: int | None = None) -> Suite:
    """Windows of the context's length; each but the first, which begins with <bos>, sees one token of the one before.

    limit: windows of each file. Raises ValueError for no file, one that is not there, and an empty one.
    """
    if not texts:
        raise ValueError("suite bits_per_byte needs --text FILE, one or several")
    items: list[Passage] = []
    num_bytes: dict[str, int] = {}
    for path in texts:
        if not path.is_file():
            raise ValueError(f"--text {path} is no file")
        name, content = str(path), path.read_bytes()
        ids = [model.vocabulary.bos_id, *model.vocabulary.encode(content.decode())]
        starts = range(0, len(ids) - 1, model.context)[:limit]
        if not starts:
            raise ValueError(f"--text {path} is empty; there is nothing to predict")
        end = min(starts[-1] + model.context + 1, len(ids))
        whole = end == len(ids)
        num_bytes[name] = len(content) if whole else len(model.vocabulary.decode(ids[1:end]).encode())
        for start in starts:
            stop = start + model.context + 1
            items.append(Passage(f"{path}:{start}", name, (ids[start],), tuple(ids[start + 1 : stop])))

    def finish(records: Sequence[Record], folder: Path) -> dict[str, Any]:
        del folder
        figures = {}
        for name, size in num_bytes.items():
            members = [record for record in records if record["group"] == name]
            nats = sum(record["metrics"]["nats"] for record in members)
            tokens = sum(record["tokens"] for record in members)
            bits = nats / math.log(2) / size
            figures[name] = {"bits_per_byte": bits, "nats_per_token": nats / tokens, "tokens": tokens, "bytes": size}
        return {"items": len(records), "groups": figures}

    return Suite("bits_per_byte", items, finish)
