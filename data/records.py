"""Text documents out of txt, jsonl, parquet and ArrayRecord files, local or at any URL that fsspec reads."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader

from data.elements import CorruptRecord
from data.tf_example import bytes_feature

_BATCH = 256  # records read at once
_UNREADABLE = (OSError, EOFError, RuntimeError, zlib.error, pa.ArrowException)


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """Text documents of files in the order of their paths; iterate it for them.

    paths: paths, globs or URLs. Compressed .gz, .bz2 and .xz files are read as what is inside.
    format: one of `FORMATS`, or "auto" to tell by the name.
    field: the key of a jsonl line, the column of a parquet file, the bytes feature of a tf.train.Example in an
        ArrayRecord; "" where an ArrayRecord is itself the text. Not used by txt.
    separator: cuts a txt file into documents; "" = a file is one document.
    """

    paths: tuple[str, ...]
    format: str = "auto"
    field: str = "text"
    separator: str = ""

    def __post_init__(self):
        if not self.paths:
            raise ValueError("paths is empty; name at least one file, glob or URL")
        if self.format not in ("auto", *FORMATS):
            raise ValueError(f"format must be auto or one of {', '.join(FORMATS)}, got {self.format!r}")

    def files(self) -> list[tuple[Any, str]]:
        """(file system, path) of every file, sorted and unique. Raises ValueError where a path names no file."""
        found = {}
        for pattern in self.paths:
            system, path = fsspec.core.url_to_fs(pattern)
            matches = [p for p in system.glob(path) if system.isfile(p)] if re.search(r"[*?\[]", path) else [path]
            if not matches or not system.isfile(matches[0]):
                kind = "is a folder, not files such as *.txt" if system.isdir(path) else "matches no file"
                raise ValueError(f"{pattern!r} {kind}; correct it in `paths`")
            found |= dict.fromkeys(matches, system)
        return [(found[path], path) for path in sorted(found)]

    def fingerprint(self) -> str:
        """SHA-256 over the contents of the files and how they are read, not where they lie."""
        digest = hashlib.sha256(repr((self.format, self.field, self.separator)).encode())
        for system, path in self.files():
            digest.update(f"{self._format_of(path)} {system.size(path)}".encode())
            with system.open(path, "rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
        return digest.hexdigest()

    def __iter__(self) -> Iterator[str | CorruptRecord]:
        """Every document that is not empty, and in its place a CorruptRecord for each that cannot be read."""
        for system, path in self.files():
            if system.size(path) == 0:
                raise ValueError(f"{path} is empty; fill it or leave it out of `paths`")
            reader = FORMATS[self._format_of(path)]
            try:
                yield from (document for document in reader(self, system, path) if document != "")
            except _UNREADABLE as error:
                yield CorruptRecord(f"{path}: cannot be read on ({_brief(error)}); is the file complete?")

    def texts(self) -> Iterator[str]:
        """Every document. Raises CorruptRecord at the first that cannot be read."""
        for document in self:
            if isinstance(document, CorruptRecord):
                raise document
            yield document

    def _format_of(self, path: str) -> str:
        if self.format != "auto":
            return self.format
        name = re.sub(r"\.(gz|bz2|xz)$", "", path.rsplit("/", 1)[-1])
        for format, pattern in _NAMES.items():
            if re.search(pattern, name):
                return format
        raise ValueError(f"{path}: the name does not tell its format; set format to one of {', '.join(FORMATS)}")


def _txt(files: TextFiles, system: Any, path: str) -> Iterator[str | CorruptRecord]:
    with system.open(path, "rb", compression="infer") as file:
        contents = file.read()
    parts = contents.split(files.separator.encode()) if files.separator else [contents]
    for record, part in enumerate(parts):
        yield _decoded(part, path, record)


def _jsonl(files: TextFiles, system: Any, path: str) -> Iterator[str | CorruptRecord]:
    with system.open(path, "rb", compression="infer") as file:
        for number, line in enumerate(file):
            if not line.strip():
                continue
            try:
                value = json.loads(line)[files.field]
                yield value if isinstance(value, str) else CorruptRecord(f"{path}, line {number + 1}: not a string")
            except (ValueError, KeyError, TypeError) as error:
                yield CorruptRecord(f"{path}, line {number + 1}: no field {files.field!r} to read ({_brief(error)})")


def _parquet(files: TextFiles, system: Any, path: str) -> Iterator[str | CorruptRecord]:
    with system.open(path, "rb") as file:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        if files.field not in names:
            raise ValueError(f"{path} has no column {files.field!r} but {', '.join(names)}; set field")
        record = 0
        for batch in table.iter_batches(_BATCH, columns=[files.field]):
            # As bytes, so that one string that is not UTF-8 does not take the others with it.
            for value in batch.column(0).cast(pa.large_binary()).to_pylist():
                yield _decoded(value or b"", path, record)
                record += 1


def _array_record(files: TextFiles, system: Any, path: str) -> Iterator[str | CorruptRecord]:
    with tempfile.TemporaryDirectory() as folder:
        local = path
        if "file" not in system.protocol and system.protocol != "file":  # the reader takes local paths only
            local = f"{folder}/copy"
            system.get_file(path, local)
        reader = ArrayRecordReader(local)
        if not reader.ok():
            reader.read_all()  # mostly raises with what is wrong
            raise EOFError("no whole ArrayRecord")
        total = reader.num_records()
        for start in range(0, total, _BATCH):
            indices = range(start, min(start + _BATCH, total))
            for index, read in zip(indices, _read_each(reader, indices), strict=True):
                yield _decoded(read, path, index, files.field)


def _read_each(reader: Any, indices: range) -> list[bytes | Exception]:
    """Records at once where all are sound, one by one where one is not."""
    try:
        return reader.read(list(indices))
    except RuntimeError:
        pass
    result: list[bytes | Exception] = []
    for index in indices:
        try:
            result += reader.read([index])
        except RuntimeError as error:
            result.append(error)
    return result


def _decoded(read: bytes | Exception, path: str, record: int, feature: str = "") -> str | CorruptRecord:
    try:
        if isinstance(read, Exception):
            raise read
        return (bytes_feature(read, feature) if feature else read).decode("utf-8")
    except (RuntimeError, ValueError) as error:
        return CorruptRecord(f"{path}, record {record}: {_brief(error)}")


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


Reader = Callable[[TextFiles, Any, str], Iterator[str | CorruptRecord]]
FORMATS: dict[str, Reader] = {"txt": _txt, "jsonl": _jsonl, "parquet": _parquet, "array_record": _array_record}
_NAMES = {
    "txt": r"\.(txt|text|md)$",
    "jsonl": r"\.(jsonl|ndjson)$",
    "parquet": r"\.(parquet|pq)$",
    "array_record": r"\.(array_record|arrayrecord)",
}
