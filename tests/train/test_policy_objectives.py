"""Objectives on a policy's own answers, against closed forms on a policy over a handful of one-token answers."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.elements import Tokens
from data.layout import RowShape
from data.problems import Problem
from model.model import Output
from train.objectives import bond, grpo, on_policy_distill
from train.rollout.collect import batch_of
from train.rollout.samples import Draws, Group, Row, Sample

pytestmark = pytest.mark.usefixtures("quick_compilation")
CODES, KEY = 3, jax.random.key(0)
PROMPT = (Tokens(np.array([1], np.int32), np.zeros(1, np.float32)),)
PROBLEM = Problem("1+1=", "2", Decimal(2))


@dataclasses.dataclass(frozen=True)
class Categorical:
    """A policy that answers every prompt with one token, by the logits it is given; ids from 4 on are codes."""

    logits_V: jax.Array

    def __call__(self, batch: Any) -> Output:
        hidden_BTD = jnp.broadcast_to(self.logits_V, (*batch.tokens.shape, self.logits_V.size))
        return Output(hidden_BTD, (), (), None)

    def unembedding(self):
        return lambda hidden: hidden


def policy(logits) -> Any:
    return Categorical(jnp.concatenate([jnp.asarray(logits, jnp.float32), jnp.full(CODES, 9.0)]))


def sample(answer: int, logprob: float = 0.0, reward: float = 0.0, anchor_logprob: float = 0.0) -> Sample:
    ids, logprobs = np.array([answer], np.int32), np.array([logprob], np.float32)
    return Sample(ids, logprobs, str(answer), True, reward, {"number": reward}, anchor_logprob)


def gradient(module: Any, logits, reference, rows: list[Row], options: Any) -> tuple[np.ndarray, dict]:
    """d loss / d logits, and the metrics."""
    batch = batch_of([PROMPT], [rows], RowShape(3))

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def slope(logits):
        found = module.loss(policy(logits), batch, KEY, teacher=policy(reference), options=options, text_size=4)
        return found.total / found.weight, found.metrics

    return slope(jnp.asarray(logits, jnp.float32))


def probabilities(logits) -> np.ndarray:
    return np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)), np.float64)


LOGITS, REFERENCE = np.array([0.5, -0.2, 1.0, 0.1]), np.array([0.0, 0.4, -0.3, 0.2])


def test_grpo_follows_the_score_function_times_the_advantage_and_the_exact_kl():
    p, q = probabilities(LOGITS), probabilities(REFERENCE)
    group = Group(PROMPT, PROBLEM, tuple(sample(a, np.log(p[a]), r) for a, r in ((0, 1), (1, 0), (2, 0), (0, 1))))
    options = grpo.Options(kl=0.3)
    rows = grpo.rows_of(group, options)
    np.testing.assert_allclose([row.coefficient for row in rows], [1, -1, -1, 1])  # rewards less mean, over deviation
    found, metrics = gradient(grpo, LOGITS, REFERENCE, rows, options)
    scores = np.eye(4)[[0, 1, 2, 0]] - p
    kl = np.sum(p * np.log(p / q))
    expected = -np.mean(np.array([1, -1, -1, 1])[:, None] * scores, axis=0) + 0.3 * p * (np.log(p / q) - kl)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(metrics["kl"][0] / metrics["kl"][1], kl, rtol=1e-5)
    np.testing.assert_allclose(metrics["entropy"][0] / metrics["entropy"][1], -np.sum(p * np.log(p)), rtol=1e-5)
    np.testing.assert_allclose(metrics["reward"][0] / metrics["reward"][1], 0.5)
    np.testing.assert_allclose(metrics["logprob_error"][0], 0, atol=1e-5)


def test_grpo_teaches_nothing_where_all_answers_to_a_prompt_are_worth_the_same():
    rows = grpo.rows_of(Group(PROMPT, PROBLEM, (sample(0, reward=1.0), sample(1, reward=1.0))), grpo.Options())
    assert [row.coefficient for row in rows] == [0, 0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"), [(1.5, 1, False), (1.5, -1, True), (0.5, -1, False), (0.5, 1, True)]
)
def test_grpo_stops_at_the_clip_only_where_it_would_go_on_the_same_way(ratio, advantage, moves):
    drawn = np.log(probabilities(LOGITS)[2] / ratio)
    found, metrics = gradient(grpo, LOGITS, REFERENCE, [Row(sample(2, drawn), advantage)], grpo.Options(kl=0.0))
    assert np.any(found != 0) == moves
    assert metrics["clipped"][0] == 1 - moves


def test_grpo_with_an_anchor_counts_the_way_from_it_against_the_reward():
    answers = (sample(0, logprob=-1.0, reward=1.0, anchor_logprob=-3.0), sample(1, logprob=-1.0, anchor_logprob=-1.0))
    assert grpo.draws(2, grpo.Options(anchor=0.5)) == Draws(2, scored=True)
    rows = grpo.rows_of(Group(PROMPT, PROBLEM, answers), grpo.Options(anchor=0.5))
    assert [row.coefficient for row in rows] == [0, 0]  # 1 - 0.5 * (-1 + 3) = 0, as the other's
    rows = grpo.rows_of(Group(PROMPT, PROBLEM, answers), grpo.Options(anchor=0.25))
    np.testing.assert_allclose([row.coefficient for row in rows], [1, -1])


@pytest.mark.parametrize("best_of", [2, 3])
def test_the_weight_of_the_best_of_n_is_what_counting_every_draw_gives(best_of):
    rewards = np.array([0.0, 1.0, 0.5, 1.0, 0.0])  # ties are broken evenly
    chosen = np.zeros(5)
    for draw in itertools.product(range(5), repeat=best_of):
        best = [i for i in draw if rewards[i] == rewards[list(draw)].max()]
        for i in best:
            chosen[i] += 1 / len(best) / 5**best_of
    for y in range(5):
        found = bond.log_best_ratio(rewards[[y]], np.delete(rewards, y), best_of)
        np.testing.assert_allclose(np.exp(found[0]), chosen[y] * 5, rtol=1e-12)


def jeffreys(best: np.ndarray, beta: float) -> Callable:
    def divergence(logits):
        log_p, log_best = jax.nn.log_softmax(logits), jnp.log(jnp.asarray(best))
        forward = jnp.sum(jnp.exp(log_best) * (log_best - log_p))
        return (1 - beta) * forward + beta * jnp.sum(jnp.exp(log_p) * (log_p - log_best))

    return divergence


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_bond_has_the_gradient_of_the_jeffreys_divergence_from_the_best_of_n(beta):
    """Groups in which every answer occurs as often as it is probable, so that their mean is the expectation."""
    rewards, policy_counts, anchor_counts = np.array([0, 1, 0.5, 1]), np.array([80, 40, 20, 60]), np.array([4, 2, 3, 1])
    p, anchor = policy_counts / 200, anchor_counts / 10
    at_most = np.array([anchor[rewards <= r].sum() for r in rewards])
    less = np.array([anchor[rewards < r].sum() for r in rewards])
    best = anchor * (at_most + less)  # N = 2
    np.testing.assert_allclose(best.sum(), 1)
    drawn = [sample(a, np.log(p[a]), rewards[a], np.log(anchor[a])) for a in np.repeat(range(4), policy_counts)]
    pairs = itertools.product(np.repeat(range(4), anchor_counts), repeat=2)
    kept = [sample(a, reward=rewards[a]) for pair in pairs for a in pair]
    options = bond.Options(best_of=2, beta=beta)
    rows = bond.rows_of(Group(PROMPT, PROBLEM, tuple(drawn), tuple(kept)), options)
    assert sum(row.of_policy for row in rows) == 200
    assert len(rows) == 300
    found, _ = gradient(bond, np.log(p), REFERENCE, rows, options)
    expected = jax.grad(jeffreys(best, beta))(jnp.log(jnp.asarray(p)))
    np.testing.assert_allclose(found, expected, atol=0.02 * float(jnp.linalg.norm(expected)))


@pytest.mark.parametrize("divergence", ["reverse", "forward", "jsd"])
def test_on_policy_distillation_has_the_divergence_and_its_gradient(divergence):
    options = on_policy_distill.Options(divergence, beta=0.3 if divergence == "jsd" else None)
    rows = on_policy_distill.rows_of(Group(PROMPT, PROBLEM, (sample(0), sample(3))), options)
    found, metrics = gradient(on_policy_distill, LOGITS, REFERENCE, rows, options)
    p, q = probabilities(LOGITS), probabilities(REFERENCE)
    mixed = 0.3 * q + 0.7 * p
    kl = lambda a, b: np.sum(a * np.log(a / b))  # noqa: E731
    value = {"reverse": kl(p, q), "forward": kl(q, p), "jsd": 0.3 * kl(q, mixed) + 0.7 * kl(p, mixed)}[divergence]
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], value, rtol=1e-5)
    by_p = {  # d value / d p, of which the softmax makes p (g - sum p g)
        "reverse": np.log(p / q) + 1,
        "forward": -q / p,
        "jsd": 0.7 * np.log(p / mixed) + 0.7 - 0.7 * (0.3 * q + 0.7 * p) / mixed,
    }[divergence]
    np.testing.assert_allclose(found, p * (by_p - np.sum(p * by_p)), atol=1e-6)


def test_settings_that_cannot_work_are_refused():
    for make, message in (
        (lambda: grpo.Options(clip_low=1.0), "clip_low must be in"),
        (lambda: grpo.draws(1, grpo.Options()), "draw 2 or more"),
        (lambda: bond.Options(best_of=1), "best_of is 1"),
        (lambda: bond.draws(5, bond.Options()), "even number of 4 or more"),
        (lambda: on_policy_distill.Options("reverse", beta=0.5), "beta is 0.5, but divergence 'reverse' has none"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
