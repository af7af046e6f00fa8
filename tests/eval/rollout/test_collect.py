"""Attempts in order, replacements for failures, and seeds that stay off those of evaluation."""

import pytest

from eval.envs.environment import EVALUATION_SEED
from eval.rollout.collect import Count, check_seeds, collect


class Writer:
    def __init__(self):
        self.episodes = []

    def add_episode(self, columns, task):
        self.episodes.append((task, len(columns["action"])))


def made(works):
    return lambda number: (f"do {number}", {"action": [0.0] * (number + 1)}, works(number))


def run(works, episodes, keep_failures=False):
    writer, told = Writer(), []
    count = collect(map, made(works), lambda i: i, writer, episodes, "it with arm", keep_failures, told.append)
    return writer.episodes, count, told


def test_failures_are_replaced_by_the_next_seeds_in_order():
    episodes, count, told = run(lambda number: number not in (0, 3), 3)
    assert episodes == [("do 1", 2), ("do 2", 3), ("do 4", 5)]
    assert count == Count(successes=3, attempts=5, frames=15)
    assert told == [1, 1, 1]


def test_failures_are_kept_if_they_are_wanted():
    episodes, count, _ = run(lambda number: False, 2, keep_failures=True)
    assert [task for task, _ in episodes] == ["do 0", "do 1"]
    assert count == Count(successes=0, attempts=2, frames=3)


def test_an_expert_that_keeps_failing_is_an_error():
    with pytest.raises(ValueError, match="only 1 of 8 attempts at it with arm succeeded; use less noise, or keep"):
        run(lambda number: number == 5, 2)


@pytest.mark.parametrize("seed", [-1, EVALUATION_SEED, EVALUATION_SEED - 39])
def test_seeds_of_evaluation_are_refused_with_room_for_replacements(seed):
    check_seeds(EVALUATION_SEED - 41, 10)
    with pytest.raises(ValueError, match=f"seed={seed}: .* kept for evaluation"):
        check_seeds(seed, 10)
