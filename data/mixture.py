"""Several sources in one endless stream of documents, whose order is a pure function of (seed, position)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from data.permutation import key_of, permute, scramble
from data.source import Source


class Mixture:
    """Document n of the stream is (source, index); a weight is a source's share of *slots*, in expectation.

    A share of slots becomes a share of documents through the source's mean number of slots a document. Every window of
    `window` documents holds the same number from each source (the share to the nearest 1/window), shuffled; so where
    a source stands at window w is known without the windows before. Each source is visited in a fresh permutation
    every epoch.

    Raises ValueError where weights and sources do not match, a source is empty, or a share is too small for `window`.
    """

    def __init__(self, sources: Mapping[str, Source], weights: Mapping[str, float], seed: int, window: int = 4096):
        if set(sources) != set(weights) or not sources:
            raise ValueError(f"weights name {sorted(weights)}, the sources are {sorted(sources)}: give one for each")
        bad = [f"{name}={weight}" for name, weight in weights.items() if not 0 < weight < np.inf]
        if bad:
            raise ValueError(
                f"weights must be positive and finite, got {', '.join(bad)}; leave out a source to skip it"
            )
        empty = [name for name in sources if len(sources[name]) == 0]
        if empty:
            raise ValueError(f"sources without a single document: {', '.join(empty)}")
        self.names = tuple(sorted(sources))  # not the order of the dictionary, which says nothing
        self.sources = tuple(sources[name] for name in self.names)
        self.costs = tuple(np.asarray(source.costs(), np.int32) for source in self.sources)
        self.seed, self.window_size = seed, window
        self.counts = self._documents_a_window(np.array([weights[name] for name in self.names], float))

    def _documents_a_window(self, weight_S: np.ndarray) -> np.ndarray:
        """int64[S] that sum to the window: largest remainders."""
        mean_slots_S = np.array([max(cost_N3[:, 0].mean(dtype=float), 1e-9) for cost_N3 in self.costs])
        exact_S = weight_S / mean_slots_S
        exact_S = exact_S / exact_S.sum() * self.window_size
        count_S = np.floor(exact_S).astype(np.int64)
        rest = self.window_size - count_S.sum()
        count_S[np.argsort(count_S - exact_S, kind="stable")[:rest]] += 1
        for name, exact, count in zip(self.names, exact_S, count_S, strict=True):
            if count == 0:
                raise ValueError(
                    f"source {name!r}: its weight comes to {exact:.3f} documents in a window of {self.window_size}; "
                    f"raise the weight, or window to {int(2 * self.window_size / exact) + 1} or more"
                )
        return count_S

    def window(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Source (an index into `names`), document and its epoch, int64[W] each, at positions number*W to
        (number+1)*W - 1."""
        source_W = np.repeat(np.arange(len(self.names)), self.counts)
        index_W, epoch_W = np.empty((2, self.window_size), np.int64)
        for s, (name, count) in enumerate(zip(self.names, self.counts, strict=True)):
            size = len(self.costs[s])
            epoch, place = np.divmod(number * count + np.arange(count), size)
            keys = {int(e): key_of(self.seed, name, int(e)) for e in np.unique(epoch)}
            key = np.array([keys[int(e)] for e in epoch], np.uint64)
            index_W[source_W == s], epoch_W[source_W == s] = permute(place, size, key), epoch
        order = np.argsort(scramble(np.arange(self.window_size), key_of(self.seed, "window", number)), kind="stable")
        return source_W[order], index_W[order], epoch_W[order]

    def costs_of(self, source_W: np.ndarray, index_W: np.ndarray) -> np.ndarray:
        """int32[W,3] of documents of the stream."""
        cost_W3 = np.empty((len(source_W), 3), np.int32)
        for s, cost_N3 in enumerate(self.costs):
            cost_W3[source_W == s] = cost_N3[index_W[source_W == s]]
        return cost_W3
