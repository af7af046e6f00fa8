from decimal import Decimal

import numpy as np
import pytest

from data.problems import Problem
from train.rewards import FormatReward, LengthReward, NumberReward, rewarded
from train.rollout.samples import Sample

PROBLEM = Problem("6*7=", "42", Decimal(42))


def sample(text: str, *, length: int = 3, ended: bool = True) -> Sample:
    return Sample(np.zeros(length, np.int32), np.zeros(length, np.float32), text, ended)


@pytest.mark.parametrize(
    ("text", "last", "marks"),
    [("42", 1, 0), ("41, no, 42.0", 1, 0), ("#### 42", 1, 1), ("#### 42 or 41", 0, 1), ("forty-two", 0, 0), ("", 0, 0)],
)
def test_a_number_is_worth_one_where_it_is_the_answer_exactly(text, last, marks):
    assert NumberReward()(PROBLEM, sample(text)) == last
    assert NumberReward(where="marks")(PROBLEM, sample(text)) == marks


def test_an_answer_that_was_cut_off_is_worth_nothing():
    assert NumberReward()(PROBLEM, sample("42", ended=False)) == 0


def test_a_format_has_to_match_the_whole_text():
    reward = FormatReward(r"-?\d+")
    assert reward(PROBLEM, sample("-7")) == 1
    assert reward(PROBLEM, sample("7 or so")) == 0
    assert FormatReward(r".*#### \d+")(PROBLEM, sample("six\nsevens\n#### 42")) == 1


@pytest.mark.parametrize(("length", "value"), [(1, 0), (10, 0), (12, -0.5), (14, -1), (40, -1)])
def test_length_costs_beyond_its_limit(length, value):
    assert LengthReward(limit=10, margin=4)(PROBLEM, sample("", length=length)) == value


def test_rewards_add_up_with_their_weights_and_are_kept_by_name():
    rewards = {"number": NumberReward(), "brief": LengthReward(limit=1, margin=2, weight=0.5)}
    found = rewarded(rewards, PROBLEM, sample("42", length=2))
    assert found.rewards == {"number": 1, "brief": -0.5}
    assert found.reward == 0.75


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"pattern is '\(', no regular expression"):
        FormatReward("(")
    with pytest.raises(ValueError, match="margin is 0"):
        LengthReward(limit=1, margin=0)
