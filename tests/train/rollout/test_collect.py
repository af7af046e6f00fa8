"""From prompts to rows: order, seeds, what a batch holds, and steps that share their draws."""

import dataclasses
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from data.batch import targets
from data.elements import Tokens
from data.layout import RowShape
from data.problems import Problem, ProblemSource
from train.objectives import bond, grpo
from train.rewards import NumberReward
from train.rollout.collect import Collector, Rewarder, batch_of
from train.rollout.prompts import PromptPipeline
from train.rollout.samples import Draws, Row, Sample

SAMPLES, BATCH, SLOTS = 4, 8, 8


class Letters:
    """A vocabulary of one id a character."""

    bos_id, eos_id = 1, 2

    def encode(self, text):
        return [ord(letter) for letter in text]


def source(name: str, num: int) -> ProblemSource:
    problems = [Problem(f"{name}{i}=", str(i), Decimal(i)) for i in range(num)]
    return ProblemSource(problems, Letters())


def pipeline(**changes) -> PromptPipeline:
    settings = {"batch_size": BATCH, "samples": SAMPLES, "prompt_slots": 5} | changes
    return PromptPipeline({"a": source("a", 7), "b": source("b", 5)}, {"a": 0.5, "b": 0.5}, 0, 16, **settings)


@dataclasses.dataclass
class Sampler:
    """Answers with what it is given as parameters, the prompt and the seed; keeps what it was asked."""

    asked: list = dataclasses.field(default_factory=list)

    def draw(self, params, buffers, prompts, seeds, *, temperature=1.0):
        self.asked.append((params, seeds))
        return [[self._answer(params, int(seed)) for seed in row] for row in seeds]

    @staticmethod
    def _answer(params, seed):
        ids = np.array([65 + seed % 26, params, 2][: 1 + seed % 3], np.int32)
        return Sample(ids, -np.ones(len(ids), np.float32) * params, str(seed % 7), True)


@dataclasses.dataclass(frozen=True)
class State:
    params: int = 3
    ema: int = 5
    buffers: None = None


def collector(prompts: PromptPipeline, draws=None, updates=1, rows_of=None, score: Any = None) -> Collector:
    sampler = Sampler()
    rewarder = Rewarder(sampler, {"number": NumberReward()}, seed=0)
    rows_of = rows_of or (lambda group: grpo.rows_of(group, grpo.Options()))
    made = Collector(
        prompts, rewarder, RowShape(SLOTS), draws=draws or Draws(SAMPLES), rows_of=rows_of, score=score, updates=updates
    )
    made.sampler = sampler
    return made


def texts(prompts) -> list[str]:
    return [problem.prompt for problem in prompts.problems]


def test_the_order_of_prompts_is_a_function_of_the_row_and_visits_all():
    steps = pipeline().iterator()
    straight = [next(steps) for _ in range(20)]
    assert [p.first for p in straight] == list(range(0, 40, 2))
    assert texts(next(pipeline().iterator(start_row=13 * BATCH))) == texts(straight[13])
    assert len({text for prompts in straight for text in texts(prompts)}) == 12
    assert texts(pipeline().prompts(2 * BATCH, 3)) == [text for prompts in straight[2:5] for text in texts(prompts)]


def test_prompts_that_are_too_long_are_refused():
    with pytest.raises(
        ValueError, match=r"source 'a': the prompt of problem 0 takes 4 slots, rollout.prompt_slots is 3"
    ):
        pipeline(prompt_slots=3)


def test_a_batch_holds_prompts_and_answers_with_weights_on_the_answers():
    prompt = (Tokens(np.array([1, 70, 61], np.int32), np.zeros(3, np.float32)),)
    samples = [
        Sample(np.array([80, 2], np.int32), np.array([-0.5, -0.25], np.float32), "P", True, 1.0, {"number": 1.0}),
        Sample(np.array([81, 82, 83], np.int32), -np.ones(3, np.float32), "QRS", False, 0.0, {"number": 0.0}),
    ]
    batch = batch_of([prompt], [[Row(samples[0], 1.5), Row(samples[1], -2.0, of_policy=False)]], RowShape(SLOTS))
    np.testing.assert_array_equal(batch.tokens[0], [1, 70, 61, 80, 2, 0, 0, 0])
    np.testing.assert_array_equal(batch.loss_weights, [[0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(batch.segment_ids[1], [1, 1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(batch.values["logprob"][0], [0, 0, 0, -0.5, -0.25, 0, 0, 0])
    np.testing.assert_array_equal(batch.values["coefficient"], [1.5, -2.0])
    np.testing.assert_array_equal(batch.values["log/reward"], [[1, 1], [0, 0]])  # of the policy's own answers
    np.testing.assert_array_equal(batch.values["log/length"], [[2, 1], [0, 0]])
    target_BT, weight_BT = targets(batch)
    np.testing.assert_array_equal(target_BT[0][weight_BT[0] > 0], [80, 2])


def test_the_same_step_gives_the_same_batch_and_another_seed_for_every_answer():
    prompts = pipeline()
    steps = list(zip(range(3), prompts.iterator(), strict=False))
    made = collector(prompts)
    batches = [made(State(), given) for _, given in steps]
    again = collector(prompts)(State(), steps[2][1])
    np.testing.assert_array_equal(again.tokens, batches[2].tokens)
    assert batches[0].tokens.shape == (BATCH, SLOTS)
    seeds = np.concatenate([seeds.reshape(-1) for _, seeds in made.sampler.asked])
    assert len(set(seeds.tolist())) == 3 * BATCH


def test_steps_that_share_their_draws_use_the_parameters_of_the_first():
    prompts = pipeline()
    made, single = collector(prompts, updates=3), collector(prompts)
    for step, given in zip(range(6), prompts.iterator(), strict=False):
        batch = made(State(params=10 + step), given)
        begun = step - step % 3
        np.testing.assert_array_equal(batch.tokens, single(State(params=10 + begun), given).tokens)
    assert [params for params, _ in made.sampler.asked] == [10, 13]


def test_an_anchor_draws_with_the_averaged_parameters_and_scores_the_policys_answers():
    options, groups = bond.Options(best_of=2), []

    def rows_of(group):
        groups.append(group)
        return bond.rows_of(group, options)

    def score(params, buffers, batch):
        assert params == State.ema
        return -batch.loss_weights.sum(1)

    made = collector(pipeline(), bond.draws(SAMPLES, options), rows_of=rows_of, score=score)
    batch = made(State(), next(pipeline().iterator()))
    assert [params for params, _ in made.sampler.asked] == [State.params, State.ema]
    assert [(len(group.policy), len(group.anchor)) for group in groups] == [(2, 4)] * 2
    assert all(s.anchor_logprob == -len(s.ids) for group in groups for s in group.policy)
    np.testing.assert_array_equal(batch.values["of_policy"], [1, 1, 0, 0] * 2)
