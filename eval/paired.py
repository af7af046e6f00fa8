"""Two systems on the same episodes: what differs is theirs, as what makes an episode hard is shared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Comparison:
    """first, second: successes of each over `pairs` episodes. only_first, only_second: episodes that one alone solved.
    difference: of the rates, first - second, with a 95 % interval low .. high. p_value: of both being as good."""

    pairs: int
    first: int
    second: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p_value: float


def compare(first: Sequence[bool], second: Sequence[bool], seed: int = 0) -> Comparison:
    """Successes of the same episodes in the same order.

    The p-value is McNemar's exact one, two-sided; the interval is a percentile bootstrap over episodes (Efron 1979).
    Raises ValueError for none, or not as many of both.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} successes; give one of each system for every episode")
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    low, high = bootstrap_interval(only_first, only_second, len(a), seed)
    return Comparison(
        pairs=len(a),
        first=int(a.sum()),
        second=int(b.sum()),
        only_first=only_first,
        only_second=only_second,
        difference=(only_first - only_second) / len(a),
        low=low,
        high=high,
        p_value=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """How likely so uneven a split of the pairs that differ is where either is as likely (McNemar 1947, exact).

    Pairs that do not differ say nothing. 1 where no pair differs.
    """
    differing, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(differing, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**differing)


def bootstrap_interval(only_first: int, only_second: int, pairs: int, seed: int = 0) -> tuple[float, float]:
    """2.5 and 97.5 % of the mean difference over pairs drawn with replacement.

    A resample is a draw from the multinomial of the three kinds of pairs: better, worse, alike.
    """
    shares = np.array([only_first, only_second, pairs - only_first - only_second]) / pairs
    drawn = np.random.default_rng(seed).multinomial(pairs, shares, RESAMPLES)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / pairs, (2.5, 97.5))
    return float(low), float(high)
