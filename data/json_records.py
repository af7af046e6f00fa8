"""Records out of jsonl, json (a list) and parquet files, local or at any URL that fsspec reads."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.elements import CorruptRecord
from data.records import TextFiles

_BATCH = 256  # rows of a parquet file read at once


@dataclasses.dataclass(frozen=True)
class Record:
    """fields: a JSON object. where: names it in errors. folder: that of its file, which paths in it are relative to."""

    fields: dict[str, Any]
    where: str
    folder: str

    def uniform(self, purpose: str) -> float:
        """A number in [0, 1) drawn by what the record holds: equal records have equal numbers."""
        content = purpose + json.dumps(self.fields, sort_keys=True, default=str)
        return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "little") / 2**64


def json_records(paths: tuple[str, ...]) -> Iterator[Record | CorruptRecord]:
    """Every record of the files (paths, globs or URLs) in order, a CorruptRecord for each that cannot be read.

    Raises ValueError where a path names no file, or a file of another kind.
    """
    for system, path in TextFiles(paths).files():
        kind = path.removesuffix(".gz").rsplit(".", 1)[-1]
        if kind not in _READERS:
            raise ValueError(f"{path}: the name does not tell its format; allowed: {', '.join(_READERS)}")
        folder = path.rpartition("/")[0]
        try:
            with system.open(path, "rb", compression="infer") as file:
                for number, fields in _READERS[kind](file):
                    where = f"{path}, record {number}"
                    if isinstance(fields, dict):
                        yield Record(fields, where, folder)
                    else:
                        yield CorruptRecord(f"{where}: {fields}")
        except (OSError, EOFError, ValueError, pa.ArrowException) as error:
            yield CorruptRecord(f"{path}: cannot be read on ({str(error)[:200]}); is the file complete?")


def _jsonl(file: Any) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file):
        if line.strip():
            try:
                value = json.loads(line)
                yield number, value if isinstance(value, dict) else "not an object"
            except ValueError as error:
                yield number, f"not JSON ({str(error)[:100]})"


def _json(file: Any) -> Iterator[tuple[int, Any]]:
    values = json.load(file)
    if not isinstance(values, list):
        raise ValueError("a json file must hold a list of objects")
    yield from enumerate(value if isinstance(value, dict) else "not an object" for value in values)


def _parquet(file: Any) -> Iterator[tuple[int, Any]]:
    batches = pq.ParquetFile(file).iter_batches(_BATCH)
    yield from enumerate(row for batch in batches for row in batch.to_pylist())


_READERS = {"jsonl": _jsonl, "ndjson": _jsonl, "json": _json, "parquet": _parquet}
