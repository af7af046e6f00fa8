"""Image bytes out of parquet files, a row group at a time, with a bounded cache shared by all threads."""

from __future__ import annotations

import collections
import pathlib
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


class ParquetImages:
    """The image columns of parquet files by row number; at most `cache_mb` megabytes of row groups are kept.

    Checksums are verified the first time that a row group is read: it takes four times as long as reading.
    """

    def __init__(self, cache_mb: float):
        self._limit = int(cache_mb * 2**20)
        self._size = 0
        self._lock = threading.Lock()
        self._groups: collections.OrderedDict[tuple[pathlib.Path, str, int], pa.Array] = collections.OrderedDict()
        self._verified: set[tuple[pathlib.Path, str, int]] = set()
        self._footers: dict[pathlib.Path, tuple[pq.FileMetaData, np.ndarray]] = {}

    def describe(self, path: pathlib.Path) -> tuple[int, list[str]]:
        """Number of rows and names of the columns of a file. Raises ValueError when it is missing or truncated."""
        metadata, starts = self._footer(path)
        return int(starts[-1]), metadata.schema.to_arrow_schema().names

    def read(self, path: pathlib.Path, row: int, column: str) -> bytes:
        """The encoded image in a row. Raises ValueError when it is absent or its row group cannot be read."""
        starts = self._footer(path)[1]
        group = int(np.searchsorted(starts, row, side="right")) - 1
        value = self._group(path, column, group)[row - int(starts[group])].as_py()
        if not value:
            raise ValueError("no image bytes are stored; embed the images in the parquet file")
        return value

    def _footer(self, path: pathlib.Path) -> tuple[pq.FileMetaData, np.ndarray]:
        if path not in self._footers:
            try:
                metadata = pq.read_metadata(path)
            except FileNotFoundError:
                raise ValueError(f"{path} is missing; copy the dataset again") from None
            except (pa.ArrowException, OSError) as error:
                problem = str(error).splitlines()[0]
                raise ValueError(f"{path} cannot be read as parquet ({problem}); copy the file again") from None
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            self._footers[path] = metadata, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        return self._footers[path]

    def _group(self, path: pathlib.Path, column: str, group: int) -> pa.Array:
        key = (path, column, group)
        with self._lock:
            if key in self._groups:
                self._groups.move_to_end(key)
                return self._groups[key]
        values = self._read_group(path, column, group)
        with self._lock:
            if key not in self._groups:
                self._groups[key] = values
                self._size += values.nbytes
            while self._size > self._limit and len(self._groups) > 1:
                self._size -= self._groups.popitem(last=False)[1].nbytes
        return values

    def _read_group(self, path: pathlib.Path, column: str, group: int) -> pa.Array:
        footer, verify = self._footer(path)[0], (path, column, group) not in self._verified
        try:
            # A file object of its own for each read: Arrow's are not safe to share between threads.
            with pq.ParquetFile(path, metadata=footer, memory_map=True, page_checksum_verification=verify) as file:
                table = file.read_row_group(group, columns=[f"{column}.bytes"], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            problem = str(error).splitlines()[0]
            raise ValueError(f"row group {group} cannot be read ({problem}); copy the file again") from None
        self._verified.add((path, column, group))
        return table[column].chunk(0).field("bytes")
