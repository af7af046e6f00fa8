"""Sources to global batches: packed rows in a fixed order, read and laid out ahead of time by Grain."""

from __future__ import annotations

import copy
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator, Mapping

import grain
import numpy as np
from absl import flags

from data.batch import Batch
from data.elements import CorruptRecord, Document
from data.layout import RowShape, check, collate, cost_of, lay_out
from data.mixture import Mixture
from data.pack import PackedStream, pack, refuse_misfits
from data.source import Source, VariedSource

_ENDLESS = 1 << 62  # rows


class Pipeline:
    """Batches of `batch_size` rows over all hosts. Row r is a pure function of (seed, r); see `Mixture` and `pack`.

    sources, weights: by name; a weight is a share of slots. shape: what a row holds. window: documents packed together.
    max_corrupt: documents that may be unreadable; each is named in the log and its slots stay padding. More raise
        ValueError with the first few. Every worker process counts for itself.
    num_threads: that read and lay out. num_workers: processes that do, each with so many threads (0 = this process).
    prefetch: batches made ahead.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        weights: Mapping[str, float],
        shape: RowShape,
        batch_size: int,
        seed: int = 0,
        window: int = 4096,
        max_corrupt: int = 0,
        num_threads: int = 2,
        num_workers: int = 0,
        prefetch: int = 4,
    ):
        self.shape, self.batch_size = shape, batch_size
        self.num_threads, self.num_workers, self.prefetch = num_threads, num_workers, prefetch
        mixture = Mixture(sources, weights, seed, window)
        self.stream = PackedStream(mixture, shape.capacity)
        self._reader = _Reader(mixture, shape, max_corrupt)
        self._annotate: Callable[[int, Batch], Batch] | None = None

    def annotated(self, annotate: Callable[[int, Batch], Batch]) -> Pipeline:
        """The same rows, each as `annotate(global row, row)` returns it; a function that pickles if there are
        workers."""
        pipeline = copy.copy(self)
        pipeline._annotate = annotate
        return pipeline

    @property
    def corrupt(self) -> dict[str, str]:
        """What is wrong with each unreadable document met so far in this process, by name."""
        return dict(self._reader.corrupt)

    def row(self, row: int) -> Batch:
        """Global row `row`, without the batch axis."""
        documents = [self._reader.read(name, index, epoch) for name, index, epoch in self.stream.row(row)]
        laid_out = lay_out([document for document in documents if document is not None], self.shape)
        return laid_out if self._annotate is None else self._annotate(row, laid_out)

    def first(self) -> Batch:
        """The first batch of all hosts, read by this thread alone."""
        return collate([self.row(row) for row in range(self.batch_size)])

    def iterator(self, start_row: int = 0, host: int = 0, num_hosts: int = 1) -> RowIterator:
        """The batches of one host from a global row on: its `batch_size / num_hosts` consecutive rows of each batch.

        Raises ValueError where the batch does not divide among the hosts.
        """
        if self.batch_size % num_hosts:
            raise ValueError(f"batch_size {self.batch_size} does not divide among {num_hosts} hosts")
        if not 0 <= host < num_hosts:
            raise ValueError(f"host must be in 0..{num_hosts - 1}, got {host}")
        share = self.batch_size // num_hosts
        first = start_row + host * share
        rows = grain.MapDataset.range(_ENDLESS).map(_Placed(self, first, share))
        batches = rows.batch(share, batch_fn=collate).to_iter_dataset(
            grain.ReadOptions(self.num_threads, self.prefetch if self.num_threads else 0)
        )
        if self.num_workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # the worker processes read absl flags
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(self.num_workers, self.prefetch))
        return RowIterator(iter(batches), start_row, self.batch_size)


class RowIterator:
    """Endless batches of one host. `next_row`, the global row that the next batch begins with, is the whole state."""

    def __init__(self, batches: Iterator[Batch], next_row: int, batch_size: int):
        self._batches, self.next_row, self._batch_size = batches, next_row, batch_size

    def __iter__(self) -> RowIterator:
        return self

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self.next_row += self._batch_size
        return batch

    def close(self) -> None:
        """Ends the threads and processes that read ahead."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()


def one_pass(source: Source, shape: RowShape, batch_size: int) -> Iterator[Batch]:
    """Every document of a source once, in a fixed order, in batches of packed rows; the last is filled with padding.

    Raises ValueError where a document does not fit a row, CorruptRecord where one cannot be read.
    """
    refuse_misfits(type(source).__name__, source.costs(), shape.capacity)
    row_N = pack(source.costs(), shape.capacity)
    order = np.argsort(row_N, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(row_N[order])) + 1)
    for start in range(0, len(members), batch_size):
        rows = [lay_out([source[int(i)] for i in row], shape) for row in members[start : start + batch_size]]
        yield collate([*rows, *[lay_out([], shape)] * (batch_size - len(rows))])


class _Placed:
    """Row j of one host, found among the rows of all hosts."""

    def __init__(self, pipeline: Pipeline, first: int, share: int):
        self._pipeline, self._first, self._share = pipeline, first, share

    def __call__(self, j: int) -> Batch:
        batch, place = divmod(j, self._share)
        return self._pipeline.row(self._first + batch * self._pipeline.batch_size + place)


class _Reader:
    """Documents by name and index, with the unreadable ones counted."""

    def __init__(self, mixture: Mixture, shape: RowShape, max_corrupt: int):
        self._sources = {n: (s, c) for n, s, c in zip(mixture.names, mixture.sources, mixture.costs, strict=True)}
        self._shape, self._max_corrupt = shape, max_corrupt
        self.corrupt: dict[str, str] = {}
        self._lock = threading.Lock()

    def read(self, name: str, index: int, epoch: int) -> Document | None:
        """None where the document is unreadable."""
        where = f"source {name!r}, document {index}"
        source, cost_N3 = self._sources[name]
        try:
            document = source.visit(index, epoch) if isinstance(source, VariedSource) else source[index]
            check(document, self._shape)
            cost = dataclasses.astuple(cost_of(document))
            if cost != tuple(cost_N3[index]):
                raise ValueError(
                    f"takes {cost} slots, images and vectors, its source said {tuple(cost_N3[index].tolist())}"
                )
        except CorruptRecord as error:
            self._count(where, str(error))
            return None
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        return document

    def _count(self, where: str, error: str) -> None:
        with self._lock:
            if where not in self.corrupt:
                logging.getLogger(__name__).warning("left out %s: %s", where, error)
            self.corrupt[where] = error
            if len(self.corrupt) > self._max_corrupt:
                first = "\n  ".join(f"{name}: {what}" for name, what in list(self.corrupt.items())[:5])
                count = len(self.corrupt)
                raise ValueError(
                    f"{count} unreadable documents, max_corrupt is {self._max_corrupt}; repair them or raise "
                    f"pipeline.max_corrupt. The first:\n  {first}"
                )

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
