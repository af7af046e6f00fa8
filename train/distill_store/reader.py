"""A store as a source of entries for the rows of a pipeline; every host and worker reads the rows that it needs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from data.batch import Batch
from data.vocabulary import Vocabulary
from train.distill_store.format import Description, decode, shard_path

_OPEN = 4  # shards kept open
_FOR_SINGLE_RECORDS = "readahead_buffer_size:0,max_parallelism:0"


class Store:
    """The finished shards of a folder, from the first on without a gap. Safe to share between threads; pickles.

    Raises ValueError where there is no store, or a shard is not as long as it was when it was written.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).resolve()
        self.description = Description.read(self.folder)
        self.shards = finished_shards(self.folder)
        self._readers: dict[int, ArrayRecordReader] = {}
        self._lock = threading.Lock()

    @property
    def num_rows(self) -> int:
        first_missing = next(i for i in range(len(self.shards) + 1) if i not in self.shards)
        return first_missing * self.description.rows_per_shard

    def check(self, vocabulary: Vocabulary, data: Mapping[str, Any], num_rows: int) -> None:
        """Raises ValueError where rows of these settings, that many, do not find their entries here."""
        description = self.description
        if vocabulary.hash != description.tokenizer_sha256:
            raise ValueError(
                f"{self.folder} was written with tokenizer {description.tokenizer_sha256[:12]}, the config's is "
                f"{vocabulary.hash[:12]} (SHA-256); set config.vocabulary to the teacher's, or write another store"
            )
        differing = differences(description.data, data)
        if differing:
            raise ValueError(
                f"{self.folder} holds other rows; these settings differ:\n  " + "\n  ".join(differing) + "\n"
                "Restore them, or write a store with the new ones."
            )
        if self.num_rows < num_rows:
            raise ValueError(
                f"{self.folder} holds {self.num_rows} rows, the phase takes {num_rows}; write the others with "
                f"python -m train.distill_store --rows {num_rows}, or set steps lower"
            )

    def add(self, row: int, batch: Batch) -> Batch:
        """Global row `row`, without its batch axis, with the entries in its `values`.

        Raises ValueError where the store has no such row, its record is damaged, or belongs to another row.
        """
        shard, place = divmod(row, self.description.rows_per_shard)
        if shard not in self.shards:
            raise ValueError(f"{self.folder} has no row {row}; python -m train.distill_store writes it")
        try:
            (record,) = self._reader(shard).read([place])
            entries = decode(self.description, batch, record)
        except (RuntimeError, ValueError) as error:
            path = shard_path(self.folder, shard)
            remedy = "if it is damaged, remove it and its .json, and run python -m train.distill_store again"
            raise ValueError(f"{path}: the record of row {row} {error}; {remedy}") from error
        return dataclasses.replace(batch, values={**batch.values, **entries.values()})

    def _reader(self, shard: int) -> ArrayRecordReader:
        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = ArrayRecordReader(str(shard_path(self.folder, shard)), _FOR_SINGLE_RECORDS)
                while len(self._readers) > _OPEN:
                    del self._readers[next(iter(self._readers))]
            return self._readers[shard]

    def __reduce__(self):
        return Store, (self.folder,)


def finished_shards(folder: Path) -> dict[int, dict[str, Any]]:
    """Shard -> what its `.json` says, of the shards that are whole. Raises ValueError where one has another length."""
    found = {}
    for path in sorted(folder.glob("*[0-9].json")):
        shard, about = int(path.stem), json.loads(path.read_text())
        data = shard_path(folder, shard)
        size = data.stat().st_size if data.is_file() else None
        if size != about["bytes"]:
            raise ValueError(
                f"{data} has {size} bytes, {path.name} says {about['bytes']}; remove both and run "
                "python -m train.distill_store again, which writes what is missing"
            )
        found[shard] = about
    return found


def verify(folder: str | Path) -> list[str]:
    """The names of finished shards whose SHA-256 is not that of when they were written. Reads everything."""
    folder = Path(folder)
    Description.read(folder)
    return [
        shard_path(folder, shard).name
        for shard, about in finished_shards(folder).items()
        if sha256_of(shard_path(folder, shard)) != about["sha256"]
    ]


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Every field that both have with another value. One that is new since the store was written has its default."""
    old, new = _flat(stored), _flat(given)
    return [
        f"{name}: {old[name]!r} there, {new[name]!r} here"
        for name in sorted(old.keys() & new.keys())
        if old[name] != new[name]
    ]


def _flat(tree: Any, where: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {where: tree}
    return {n: leaf for k, v in tree.items() for n, leaf in _flat(v, f"{where}.{k}" if where else str(k)).items()}
