from __future__ import annotations

import math

import pytest

from eval.wilson import wilson_interval


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_intervals_are_reproduced(successes, episodes, low, high):
    assert wilson_interval(successes, episodes) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "episodes"), [(1, 3), (7, 50), (49, 50), (300, 1000)])
@pytest.mark.parametrize("z", [1.0, 1.959963984540054, 2.5758293035489004])
def test_both_bounds_solve_the_equation_that_defines_them(successes, episodes, z):
    rate = successes / episodes
    for bound in wilson_interval(successes, episodes, confidence=math.erf(z / math.sqrt(2))):
        assert (rate - bound) ** 2 == pytest.approx(z * z * bound * (1 - bound) / episodes, rel=1e-9)


def test_the_interval_is_symmetric_and_stays_inside_zero_to_one():
    assert wilson_interval(0, 50)[0] == 0.0
    assert wilson_interval(50, 50)[1] == 1.0
    for successes in range(51):
        low, high = wilson_interval(successes, 50)
        assert 0 <= low <= successes / 50 <= high <= 1
        assert wilson_interval(50 - successes, 50) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_nothing_is_known_without_episodes():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match=r"successes is 5; it must be 0 \.\. episodes = 4"):
        wilson_interval(5, 4)
    with pytest.raises(ValueError, match="confidence is 95"):
        wilson_interval(1, 4, confidence=95)
