"""Paired comparisons against SciPy's binomial test and bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from eval.paired import bootstrap_interval, compare, mcnemar


@pytest.mark.parametrize(
    ("only_first", "only_second"), [(0, 0), (1, 0), (5, 5), (3, 11), (12, 1), (40, 22), (300, 260)]
)
def test_the_p_value_is_that_of_the_exact_binomial_test(only_first, only_second):
    stats = pytest.importorskip("scipy.stats")
    differing = only_first + only_second
    expected = stats.binomtest(only_first, differing, 0.5).pvalue if differing else 1.0
    assert mcnemar(only_first, only_second) == pytest.approx(expected, rel=1e-9)


def test_the_interval_is_that_of_resampling_the_pairs():
    stats = pytest.importorskip("scipy.stats")
    difference = np.repeat([1.0, -1.0, 0.0], (30, 12, 58))
    expected = stats.bootstrap(
        (difference,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert bootstrap_interval(30, 12, 100) == pytest.approx(tuple(expected), abs=0.012)


def test_the_interval_covers_the_true_difference_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        better, worse, _ = rng.multinomial(120, (0.3, 0.15, 0.55))
        low, high = bootstrap_interval(int(better), int(worse), 120)
        covered += low <= 0.15 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_episodes_that_both_solve_or_both_fail_decide_nothing():
    first, second = [True] * 6 + [False], [False] * 6 + [True]
    few, many = compare(first, second), compare(first + [True] * 500, second + [True] * 500)
    assert few.p_value == many.p_value == pytest.approx(2 * 8 / 2**7)
    assert (few.only_first, few.only_second, many.pairs) == (6, 1, 507)
    assert many.difference == pytest.approx(5 / 507)
    assert many.low <= many.difference <= many.high


def test_exchanging_the_two_exchanges_the_result():
    rng = np.random.default_rng(3)
    a, b = rng.random(80) < 0.7, rng.random(80) < 0.5
    one, other = compare(a.tolist(), b.tolist()), compare(b.tolist(), a.tolist())
    assert (one.difference, one.p_value) == (-other.difference, other.p_value)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=0.02)


def test_other_episodes_cannot_be_compared():
    with pytest.raises(ValueError, match="2 and 1 successes"):
        compare([True, False], [True])
    with pytest.raises(ValueError, match="0 and 0 successes"):
        compare([], [])
