"""Heads: blocks of logits, bins of actions, and the flow expert against exact velocities and a layer by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.config import AttentionConfig, BinsHeadConfig, DenseConfig, FlowHeadConfig, ModelConfig, RobotConfig
from model.heads.bins import BinsHead
from model.heads.flow import ExpertLayer, FlowHead, Prefix
from model.heads.tokens import TokenHead, blockwise
from model.init import Init
from tests.model.weights import random_like

pytestmark = pytest.mark.usefixtures("quick_compilation")


def nll_and_entropy(hidden_ND, table_VD, target_N):
    """Two numbers a row, from logits [N,V]."""
    log_p_NV = jax.nn.log_softmax(hidden_ND @ table_VD.T)
    nll_N = -jnp.take_along_axis(log_p_NV, target_N[:, None], axis=1)[:, 0]
    return jnp.stack([nll_N, -jnp.sum(jnp.exp(log_p_NV) * log_p_NV, axis=1)], axis=1)


@pytest.mark.parametrize("block", [4, 5, 64])
def test_blockwise_gives_the_value_and_gradient_of_the_whole(block):
    rng = np.random.default_rng(0)
    hidden_ND, table_VD = (jnp.array(rng.normal(size=size), jnp.float32) for size in ((10, 6), (17, 6)))
    target_N, weight_N2 = jnp.array(rng.integers(0, 17, 10)), jnp.array(rng.normal(size=(10, 2)))

    def whole(hidden_ND, table_VD):
        return nll_and_entropy(hidden_ND, table_VD, target_N)

    def in_blocks(hidden_ND, table_VD):
        return blockwise(lambda h, t: nll_and_entropy(h, table_VD, t), hidden_ND, target_N, block=block)

    def value_and_gradient(function):
        total = lambda *args: jnp.sum(weight_N2 * function(*args))  # noqa: E731
        return jax.jit(lambda *args: (function(*args), jax.grad(total, (0, 1))(*args)))(hidden_ND, table_VD)

    compared = zip(*(jax.tree.leaves(value_and_gradient(f)) for f in (whole, in_blocks)), strict=True)
    for expected, ours in compared:
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_the_gradient_of_blockwise_logits_never_holds_them_all():
    N, V, block = 8192, 512, 512
    shapes = (jax.ShapeDtypeStruct((N, 8), jnp.float32), jax.ShapeDtypeStruct((V, 8), jnp.float32))
    target_N = jnp.zeros(N, jnp.int32)

    def scratch_bytes(function) -> int:
        gradient = jax.jit(jax.grad(lambda *args: jnp.sum(function(*args)), (0, 1)))
        return gradient.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    in_blocks = scratch_bytes(
        lambda h, table: blockwise(lambda h, t: nll_and_entropy(h, table, t), h, target_N, block=block)
    )
    assert scratch_bytes(lambda h, table: nll_and_entropy(h, table, target_N)) > 4 * N * V
    assert in_blocks < 4 * N * V / 4


def test_logits_are_capped_products_with_the_table():
    head = TokenHead(Init(jax.random.key(0)), 5, 4, tied=True, softcap=2.0)
    hidden_D, table_VD = np.arange(4.0), np.linspace(-3, 3, 20).reshape(5, 4)
    logits_V = head.logits(jnp.array(hidden_D, jnp.bfloat16), jnp.array(table_VD))
    assert logits_V.dtype == jnp.float32
    np.testing.assert_allclose(logits_V, 2 * np.tanh(table_VD @ hidden_D / 2), atol=0.02)
    assert not hasattr(head, "table")


@pytest.fixture(scope="module")
def bins():
    robot = RobotConfig(num_embodiments=1, width=2, chunk=3)
    return BinsHead(Init(jax.random.key(0)), BinsHeadConfig(num_bins=16, low=-2.0, high=3.0), robot, model_dim=4)


def test_an_action_comes_back_from_its_bin_within_half_a_bin(bins):
    actions = np.linspace(-2, 3, 1000, endpoint=False).astype("f4")
    found = np.asarray(bins.bin_of(actions))
    assert np.abs(bins.centre_of(found) - actions).max() <= 5 / 16 / 2 + 1e-6
    assert sorted(set(found.tolist())) == list(range(16))
    np.testing.assert_array_equal(bins.bin_of(bins.centre_of(np.arange(16))), np.arange(16))


def test_actions_outside_the_range_fall_into_the_first_and_last_bin(bins):
    np.testing.assert_array_equal(bins.bin_of(jnp.array([-1e9, -2.1, 3.0, 1e9])), [0, 0, 15, 15])


def test_the_prediction_is_the_centre_of_the_most_likely_bin(bins):
    hidden_BKD = jnp.array(np.random.default_rng(0).normal(size=(2, 1, 4)), jnp.float32)
    logits = np.einsum("bkd,dcan->bkcan", hidden_BKD, bins.kernel[...])
    np.testing.assert_allclose(bins.logits(hidden_BKD), logits, atol=1e-6)
    np.testing.assert_allclose(bins.predict(hidden_BKD), -2 + (logits.argmax(-1) + 0.5) * 5 / 16, atol=1e-6)


class ExactVelocity(FlowHead):
    """The expert replaced by the velocity field of a known distribution of actions."""

    def __init__(self, num_steps: int, field):
        self.config, self.field = FlowHeadConfig(width=2, hidden_dim=1, num_steps=num_steps), field

    def velocity(self, noisy_BKCA, tau_BK, embodiment_BK, prefix):
        return self.field(noisy_BKCA, tau_BK[:, :, None, None])


def sampled(num_steps: int, field, noise) -> np.ndarray:
    head = ExactVelocity(num_steps, field)
    return np.asarray(jax.jit(lambda x: head.sample(x, jnp.zeros(x.shape[:2], int), None))(noise))


@pytest.fixture(scope="module")
def noise():
    return jnp.array(np.random.default_rng(0).normal(size=(2, 1, 3, 4)), jnp.float32)


@pytest.mark.parametrize("num_steps", [1, 7])
def test_straight_paths_to_one_action_are_followed_exactly_in_any_number_of_steps(num_steps, noise):
    """x_tau = tau noise + (1 - tau) action, so the velocity at x is (x - action) / tau."""
    found = sampled(num_steps, lambda x, tau: (x - 1.5) / tau, noise)
    np.testing.assert_allclose(found, 1.5, atol=1e-5)


def test_noise_flows_to_a_gaussian_of_actions_with_an_error_that_halves_with_the_step(noise):
    """Actions N(mean, s^2): the field E[noise - action | x] carries x_1 to mean + s x_1."""
    mean, s = 0.7, 0.3

    def field(x, tau):
        variance = tau**2 + (1 - tau) ** 2 * s**2
        return (tau - (1 - tau) * s**2) / variance * (x - (1 - tau) * mean) - mean

    errors = [np.abs(sampled(steps, field, noise) - (mean + s * noise)).max() for steps in (100, 200)]
    assert errors[1] < 0.02
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.1)


W, C, H, h, S = 8, 3, 2, 4, 8  # widths of the expert below; S keys of the backbone
ATTENTION = AttentionConfig(num_heads=H, num_kv_heads=1, head_dim=h, softcap=3.0, rope_base=50.0)
MODEL = ModelConfig(
    model_dim=W,
    num_layers=1,
    pattern=("global",),
    ffn=("dense",),
    global_attention=ATTENTION,
    dense=DenseConfig(W),
    robot=RobotConfig(num_embodiments=2, width=2, chunk=C),
    flow=FlowHeadConfig(width=W, hidden_dim=5),
)


@pytest.fixture(scope="module")
def prefix():
    """Two chunks: one sees keys 0 to 3 and stands at position 4, one sees 5 and 6 and stands at 2."""
    rng = np.random.default_rng(1)
    keys_values = tuple(jnp.array(rng.normal(size=(1, S, 1, h)), jnp.float32) for _ in range(2))
    lo_BK, hi_BK, position_BK = (jnp.array([x], jnp.int32) for x in ([0, 5], [4, 7], [4, 2]))
    hidden_BKD = jnp.array(rng.normal(size=(1, 2, W)), jnp.float32)
    proprio_BKA = jnp.array(rng.normal(size=(1, 2, 2)), jnp.float32)
    return Prefix((keys_values,), hidden_BKD, proprio_BKA, lo_BK, hi_BK, position_BK)


def test_the_velocity_is_zero_before_training_and_then_follows_hidden_and_robot_state_of_its_own_slot(prefix):
    graph, initial = nnx.split(FlowHead(Init(jax.random.key(0)), MODEL))
    noise = jnp.ones((1, 2, C, 2))

    @jax.jit
    def velocity(state, **changed):
        seen = dataclasses.replace(prefix, **changed)
        return nnx.merge(graph, state).velocity(noise, jnp.full((1, 2), 0.5), jnp.array([[0, 1]]), seen)

    before = velocity(initial)
    assert (before.shape, before.dtype) == (noise.shape, jnp.float32)
    np.testing.assert_array_equal(before, 0)

    trained = random_like(initial)
    for name in ("hidden_BKD", "proprio_BKA"):
        one, other = (velocity(trained, **{name: getattr(prefix, name).at[0, 1].add(shift)}) for shift in (0.0, 1.0))
        np.testing.assert_array_equal(one[0, 0], other[0, 0])
        assert np.abs(one - other).max() > 1e-2


def test_an_expert_layer_attends_to_its_observation_and_its_own_chunk_together(prefix):
    """One softmax over both sets of keys, between modulations of scale, shift and gate."""
    assert MODEL.flow is not None
    layer_of = lambda: ExpertLayer(Init(jax.random.key(0)), MODEL.flow, ATTENTION, MODEL)  # noqa: E731
    graph, state = nnx.split(jax.eval_shape(layer_of))
    layer = nnx.merge(graph, random_like(state, std=0.4))
    x, condition = (np.random.default_rng(seed).normal(size=size) for seed, size in ((2, (2, C, W)), (3, (2, W))))
    given = jnp.array(x, jnp.float32)[None], jnp.array(condition, jnp.float32)[None, :, None]
    out = jax.jit(layer)(*given, prefix.keys_values[0], prefix)

    weight = lambda module, name: np.asarray(getattr(module, name)[...], "f8")  # noqa: E731
    normalised = lambda y: y / np.sqrt(np.mean(y**2, axis=-1, keepdims=True) + 1e-6)  # noqa: E731
    for k, (lo, hi, position) in enumerate(((0, 4, 4), (5, 7, 2))):
        modulation = np.einsum("w,wnv->nv", condition[k], weight(layer, "modulation"))
        scale, shift, gate, ffn_scale, ffn_shift, ffn_gate = modulation
        y = normalised(x[k]) * (1 + scale) + shift
        q, key, value = (np.einsum("cw,wnd->cnd", y, weight(layer.attention, n)) for n in ("query", "key", "value"))
        turn = np.exp(1j * np.arange(position, position + C)[:, None, None] * 50.0 ** (-np.arange(h // 2) / (h // 2)))
        for rotated, norm in ((q, "query_norm"), (key, "key_norm")):
            unit = normalised(rotated) * (1 + weight(getattr(layer.attention, norm), "scale"))
            turned = (unit[..., : h // 2] + 1j * unit[..., h // 2 :]) * turn
            rotated[...] = np.concatenate([turned.real, turned.imag], axis=-1)
        seen = [np.asarray(x)[0, lo:hi] for x in prefix.keys_values[0]]
        keys, values = np.concatenate([seen[0], key]), np.concatenate([seen[1], value])
        scores = 3 * np.tanh(np.einsum("chd,sd->chs", q, keys[:, 0]) * h**-0.5 / 3)
        probability = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        attended = np.einsum("chs,sd,hdw->cw", probability, values[:, 0], weight(layer.attention, "out"))
        y = x[k] + (1 + gate) * attended
        ffn = layer.ffn(jnp.array(normalised(y) * (1 + ffn_scale) + ffn_shift, jnp.float32))
        np.testing.assert_allclose(out[0, k], y + (1 + ffn_gate) * ffn, atol=3e-5)
