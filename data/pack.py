"""Which documents share a row: best fit over fixed windows of the stream, planned from costs alone."""

from __future__ import annotations

import bisect
import threading

import numpy as np

from data.mixture import Mixture
from data.permutation import key_of, scramble

RESOURCES = ("slots", "images", "vectors")
_KEPT = 4  # planned windows kept in memory


def pack(cost_N3: np.ndarray, capacity_3: tuple[int, int, int]) -> np.ndarray:
    """int64[N]: the row, from 0, of each document. No row exceeds the capacity in any of `RESOURCES`.

    Best fit decreasing (Johnson 1973): the largest first, each into the row with the fewest free slots that takes it.
    Documents of equal cost are placed together, which gives the same rows. A document must fit an empty row.
    """
    capacity = np.asarray(capacity_3, np.int64)
    cost_N3 = np.asarray(cost_N3, np.int64)
    row_N = np.empty(len(cost_N3), np.int64)
    free_R3 = np.empty((len(cost_N3), 3), np.int64)
    num_rows = 0
    for cost_3, members in _equal_costs(cost_N3, capacity):
        free = free_R3[:num_rows]
        fits_R = _times(free, cost_3)
        rows = np.flatnonzero(fits_R)
        rows = rows[np.argsort(free[rows, 0], kind="stable")]
        before = np.cumsum(fits_R[rows]) - fits_R[rows]
        taken = np.minimum(fits_R[rows], np.maximum(len(members) - before, 0))
        left = len(members) - int(taken.sum())
        if left:
            each = int(_times(capacity[None], cost_3)[0])
            opened = -(-left // each)
            rows = np.concatenate([rows, np.arange(num_rows, num_rows + opened)])
            taken = np.concatenate([taken, np.full(opened, each)])
            taken[-1] -= opened * each - left
            free_R3[num_rows : num_rows + opened] = capacity
            num_rows += opened
        row_N[members] = np.repeat(rows, taken)
        free_R3[rows] -= taken[:, None] * cost_3
    return row_N


def _times(free_R3: np.ndarray, cost_3: np.ndarray) -> np.ndarray:
    """int64[R]: how many documents of one cost still fit each row."""
    used = np.flatnonzero(cost_3)
    times_R = free_R3[:, used[0]] // cost_3[used[0]]
    for resource in used[1:]:
        times_R = np.minimum(times_R, free_R3[:, resource] // cost_3[resource])
    return times_R


def _equal_costs(cost_N3: np.ndarray, capacity: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(cost, documents of that cost in stream order), largest first.

    Large = what a document takes of each resource, weighted by how scarce that is among all documents (Panigrahy and
    others 2011, section 3). In integers, so that every machine sorts alike.
    """
    weight_3 = (cost_N3.sum(0) << 20) // np.maximum(capacity, 1) ** 2
    order = np.lexsort((*cost_N3.T, -(cost_N3 * weight_3).sum(1)))
    starts = np.flatnonzero(np.any(np.diff(cost_N3[order], axis=0, prepend=-1), axis=1))
    return [(cost_N3[group[0]], group) for group in np.split(order, starts[1:])]


class PackedStream:
    """Global row r of a mixture, as the documents in it: a pure function of (seed, r) and of nothing else.

    Window after window of the mixture is planned in order, at first use, so row r costs the planning of what lies
    before it (about five microseconds a document), once. Safe to share between threads.

    Raises ValueError where a document does not fit an empty row, or takes no slot.
    """

    def __init__(self, mixture: Mixture, capacity: tuple[int, int, int]):
        self.mixture, self.capacity = mixture, capacity
        for name, cost_N3 in zip(mixture.names, mixture.costs, strict=True):
            refuse_misfits(name, cost_N3, capacity)
        self._ends: list[int] = []  # of windows, in rows
        self._plans: dict[int, list[np.ndarray]] = {}
        self._lock = threading.Lock()

    def row(self, row: int) -> list[tuple[str, int, int]]:
        """(name of the source, index of the document, epoch) of everything in global row `row`, in reading order."""
        with self._lock:
            while not self._ends or self._ends[-1] <= row:
                window = len(self._ends)
                self._ends.append(len(self._plan(window)) + (self._ends[-1] if self._ends else 0))
            window = bisect.bisect_right(self._ends, row)
            places = self._plan(window)[row - (self._ends[window - 1] if window else 0)]
        return [(self.mixture.names[s], int(index), int(epoch)) for s, index, epoch in places]

    def efficiency(self) -> float:
        """Share of slots that the first window of the stream fills."""
        cost_W3 = self.mixture.costs_of(*self.mixture.window(0)[:2])
        return float(cost_W3[:, 0].sum()) / (self.capacity[0] * int(pack(cost_W3, self.capacity).max() + 1))

    def _plan(self, window: int) -> list[np.ndarray]:
        """For each row of a window int64[n,3]: source, document and epoch."""
        if window not in self._plans:
            source_W, index_W, epoch_W = self.mixture.window(window)
            row_W = pack(self.mixture.costs_of(source_W, index_W), self.capacity)
            # Packing leaves full rows first: shuffle, or a batch would hold one kind of document.
            key = key_of(self.mixture.seed, "rows", window)
            order = np.lexsort((np.arange(len(row_W)), row_W, scramble(row_W, key)))
            starts = np.flatnonzero(np.diff(row_W[order]))
            places = np.stack([source_W, index_W, epoch_W], axis=1)[order]
            self._plans[window] = np.split(places, starts + 1)
            while len(self._plans) > _KEPT:
                del self._plans[next(iter(self._plans))]
        return self._plans[window]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_lock": None, "_plans": {}}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def refuse_misfits(name: str, cost_N3: np.ndarray, capacity: tuple[int, int, int]) -> None:
    """Raises ValueError where a document exceeds an empty row, or takes no slot."""
    misfits = np.flatnonzero(np.any(cost_N3 > np.array(capacity), axis=1) | (cost_N3[:, 0] < 1))
    if len(misfits):
        first = int(misfits[0])
        cost, room = (
            ", ".join(f"{n} {r}" for n, r in zip(v, RESOURCES, strict=True)) for v in (cost_N3[first], capacity)
        )
        raise ValueError(
            f"source {name!r}: {len(misfits)} of {len(cost_N3)} documents do not fit a row, first document {first} "
            f"with {cost}; a row holds {room}, a document takes at least 1 slot. Make rows larger or documents shorter"
        )
