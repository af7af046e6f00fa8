"""The pairs that the reward models of the measurement learn from, and the configs that train them."""

import json

import pytest

from benchmarks.warm import LARGEST, NUM_PAIRS, write_data
from configs import sft, warm
from train.build import check
from train.sections import completed


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_pair_prefers_the_right_sum(tmp_path):
    write_data(tmp_path)
    pairs = lines(tmp_path / "pairs.jsonl")
    assert len(pairs) == NUM_PAIRS
    for pair in pairs:
        a, b = map(int, pair["prompt"].removesuffix("=").split("+"))
        assert int(pair["chosen"]) == a + b
        assert int(pair["rejected"]) != a + b
        assert int(pair["rejected"]) >= 0


def test_every_sum_is_answered_once_before_models_of_reward_begin(tmp_path):
    write_data(tmp_path)
    answers = lines(tmp_path / "answers.jsonl")
    assert len({answer["question"] for answer in answers}) == len(answers) == LARGEST**2
    assert all(eval(x["question"].removesuffix("=")) == int(x["answer"]) for x in answers)


@pytest.mark.parametrize("config", [warm.get_config(), warm.get_config("member"), sft.get_config()])
def test_the_configs_of_post_training_fit_together(config):
    check(completed(config))


@pytest.mark.parametrize("module", [warm, sft])
def test_an_unknown_variant_is_refused(module):
    with pytest.raises(ValueError, match="has no variant 'other'"):
        module.get_config("other")
