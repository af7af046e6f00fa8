"""DPO and reward models against numpy, and pairs that know nothing of what shares their row."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data.batch import Batch
from data.elements import Boundary, Tokens
from data.layout import RowShape, collate, lay_out
from model.config import AttentionConfig, DenseConfig, ModelConfig
from model.model import Output, join
from tests.model.weights import random_states
from train.objectives import dpo, reward
from train.objectives.pairs import ends, exists, halves

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY, VOCAB, T = jax.random.key(0), 16, 40
OPTIONS = dpo.Options(beta=0.3)


def half(rng: np.random.Generator, given: int, learnt: int) -> Tokens:
    weights = np.repeat([0.0, 1.0], (given, learnt)).astype(np.float32)
    return Tokens(rng.integers(4, VOCAB, given + learnt).astype(np.int32), weights)


def pair(seed: int):
    rng = np.random.default_rng(seed)
    given, lengths = int(rng.integers(2, 5)), rng.integers(1, 6, 2)
    return (half(rng, given, lengths[0]), Boundary(), half(rng, given, lengths[1]))


def rows(*documents: list) -> Batch:
    return jax.tree.map(jnp.asarray, collate([lay_out(row, RowShape(T)) for row in documents]))


@pytest.fixture(scope="module")
def packed():
    """Two pairs and three in a row, of which one is full but for a few slots."""
    return rows([pair(0), pair(1)], [pair(2), pair(3), pair(4)])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Given:
    """A model whose hidden states are its logits, and whose scores are their first entry."""

    hidden_BTD: jax.Array

    def __call__(self, batch: Any) -> Output:
        return Output(self.hidden_BTD, (), (), None)

    def unembedding(self):
        return lambda hidden: hidden

    def reward(self, hidden_BTD):
        return hidden_BTD[..., 0]


def given(seed: int) -> Given:
    return Given(jnp.asarray(np.random.default_rng(seed).normal(size=(2, T, VOCAB)), jnp.float32))


def log_softmax(logits):
    logits = np.asarray(logits, "f8")
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def answers(batch):
    """(row, slots of the targets) of every half, in reading order."""
    for b in range(len(batch.tokens)):
        for segment in range(1, int(batch.segment_ids[b].max()) + 1):
            slots = np.flatnonzero((batch.segment_ids[b] == segment) & (batch.loss_weights[b] > 0))
            yield b, slots


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_dpo_and_its_gradient_are_those_of_the_closed_form(packed):
    """d loss / d logits = -beta sigmoid(-margin) (+-1) (one-hot(token) - softmax) at the slots before an answer's."""
    policy, reference = given(1), given(2)
    value = lambda policy, reference: dpo.loss(policy, packed, KEY, teacher=reference, options=OPTIONS).total  # noqa: E731
    total, (of_policy, of_reference) = jax.jit(jax.value_and_grad(value, (0, 1)))(policy, reference)

    log_p, log_r = (log_softmax(model.hidden_BTD) for model in (policy, reference))
    tokens = np.asarray(packed.tokens)
    found = list(answers(packed))
    ratios = [np.sum((log_p - log_r)[b, slots - 1, tokens[b, slots]]) for b, slots in found]
    margins = OPTIONS.beta * (np.array(ratios[::2]) - ratios[1::2])
    np.testing.assert_allclose(total, -np.log(sigmoid(margins)).sum(), rtol=1e-5)
    expected = np.zeros((2, T, VOCAB))
    for i, (b, slots) in enumerate(found):
        sign = 1 if i % 2 == 0 else -1
        pull = np.eye(VOCAB)[tokens[b, slots]] - np.exp(log_p[b, slots - 1])
        expected[b, slots - 1] = -OPTIONS.beta * sigmoid(-margins[i // 2]) * sign * pull
    np.testing.assert_allclose(of_policy.hidden_BTD, expected, atol=1e-6)
    np.testing.assert_array_equal(of_reference.hidden_BTD, 0)


def test_dpo_logs_how_often_and_how_far_the_policy_prefers_the_better_answer(packed):
    loss = dpo.loss(given(1), packed, KEY, teacher=given(2), options=OPTIONS)
    log_p, log_r = (log_softmax(given(seed).hidden_BTD) for seed in (1, 2))
    tokens = np.asarray(packed.tokens)
    ratios = [np.sum((log_p - log_r)[b, slots - 1, tokens[b, slots]]) for b, slots in answers(packed)]
    better, worse = np.array(ratios[::2]), np.array(ratios[1::2])
    assert loss.weight == 5
    np.testing.assert_allclose(loss.metrics["accuracy/preference"], ((better > worse).sum(), 5))
    np.testing.assert_allclose(loss.metrics["log_ratio/better"], (better.sum(), 5), atol=1e-5)
    np.testing.assert_allclose(loss.metrics["log_ratio/worse"], (worse.sum(), 5), atol=1e-5)


def test_a_policy_equal_to_its_reference_costs_the_logarithm_of_two_whatever_the_pairs(packed):
    loss = dpo.loss(given(1), packed, KEY, teacher=given(1), options=OPTIONS)
    np.testing.assert_allclose(loss.total / loss.weight, np.log(2), rtol=1e-6)


def test_reward_is_the_bradley_terry_likelihood_of_the_scores_at_the_ends(packed):
    model = given(3)
    total, gradient = jax.jit(jax.value_and_grad(lambda model: reward.loss(model, packed, KEY).total))(model)
    last = [(b, slots[-1]) for b, slots in answers(packed)]
    scores = np.array([model.hidden_BTD[b, slot, 0] for b, slot in last])
    margins = scores[::2] - scores[1::2]
    np.testing.assert_allclose(total, -np.log(sigmoid(margins)).sum(), rtol=1e-5)
    expected = np.zeros((2, T, VOCAB))
    for i, (b, slot) in enumerate(last):
        expected[b, slot, 0] = sigmoid(-margins[i // 2]) * (-1 if i % 2 == 0 else 1)
    np.testing.assert_allclose(gradient.hidden_BTD, expected, atol=1e-6)


def test_sums_are_those_of_each_half_also_in_a_row_that_is_full():
    ids = jnp.array([[1, 1, 2, 2], [1, 2, 0, 0], [0, 0, 0, 0]])
    better, worse = halves(jnp.arange(12.0).reshape(3, 4), ids)
    np.testing.assert_array_equal(better, [[0 + 1, 0], [4, 0], [0, 0]])
    np.testing.assert_array_equal(worse, [[2 + 3, 0], [5, 0], [0, 0]])
    np.testing.assert_array_equal(ends(ids), [[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(exists(ids), [[1, 0], [1, 0], [0, 0]])


def test_a_batch_without_pairs_has_no_loss():
    empty = rows([])
    model = Given(jnp.zeros((1, T, VOCAB)))
    for loss in (reward.loss(model, empty, KEY), dpo.loss(model, empty, KEY, teacher=model, options=OPTIONS)):
        assert (loss.total, loss.weight) == (0, 0)


CONFIG = ModelConfig(
    model_dim=16,
    num_layers=1,
    pattern=("global",),
    ffn=("dense",),
    global_attention=AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8),
    dense=DenseConfig(hidden_dim=16),
    reward=True,
)


def test_packing_leaks_nothing_between_pairs_and_halves(packed):
    """Loss and gradient of packed pairs are the sum of those of each pair in a row of its own."""
    graph, params, buffers = random_states(CONFIG, VOCAB, std=0.4)
    _, other, _ = random_states(CONFIG, VOCAB, seed=5, std=0.4)
    teacher = join(graph, other, buffers)

    def total(params, batch):
        model = join(graph, params, buffers)
        return (
            reward.loss(model, batch, KEY).total + dpo.loss(model, batch, KEY, teacher=teacher, options=OPTIONS).total
        )

    evaluate = jax.jit(jax.value_and_grad(total))
    value, gradient = evaluate(params, packed)
    alone = [evaluate(params, rows([pair(seed)], [])) for seed in range(5)]
    np.testing.assert_allclose(value, sum(v for v, _ in alone), rtol=1e-5)
    summed = jax.tree.map(lambda *leaves: sum(leaves), *(g for _, g in alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), gradient, summed)


@pytest.mark.parametrize("objective", [dpo, reward])
def test_a_tiny_model_learns_one_batch_of_pairs(packed, objective):
    graph, params, buffers = random_states(CONFIG, VOCAB, std=0.1)
    extra = {"teacher": join(graph, params, buffers), "options": OPTIONS} if objective is dpo else {}
    adam = optax.adam(1e-2)

    def mean(params):
        loss = objective.loss(join(graph, params, buffers), packed, KEY, **extra)
        return loss.total / loss.weight, loss.metrics["accuracy/preference"][0]

    @jax.jit
    def learn(params):
        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(mean, has_aux=True)(params)
            updates, state = adam.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, adam.init(params)), length=40)[1]

    losses, right = learn(params)
    assert losses[-1] < 0.2 * losses[0]
    assert right[-1] == 5


def test_a_beta_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"beta is 0; allowed: a positive number"):
        dpo.Options(beta=0)
