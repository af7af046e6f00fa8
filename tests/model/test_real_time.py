"""Real-time chunking against numerical Jacobians, closed forms and the ordinary sampler."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.config import AttentionConfig, DenseConfig, FlowHeadConfig, ModelConfig, RobotConfig
from model.heads.flow import FlowHead, Prefix
from model.heads.real_time import Running, overlap_weights, sample_after, sample_guided
from model.init import Init
from tests.model.weights import random_like

pytestmark = pytest.mark.usefixtures("quick_compilation")
W, C, A, h = 8, 5, 2, 4
MODEL = ModelConfig(
    model_dim=W,
    num_layers=1,
    pattern=("global",),
    ffn=("dense",),
    global_attention=AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=h),
    dense=DenseConfig(W),
    robot=RobotConfig(num_embodiments=2, width=A, chunk=C),
    flow=FlowHeadConfig(width=W, hidden_dim=6, num_steps=4),
)
ROBOT = jnp.array([[0, 1]])


def normal(seed, *shape):
    return jnp.array(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def prefix():
    lo_BK, hi_BK, position_BK = (jnp.array([x], jnp.int32) for x in ([0, 3], [3, 6], [3, 3]))
    keys_values = ((normal(0, 1, 6, 1, h), normal(1, 1, 6, 1, h)),)
    return Prefix(keys_values, normal(2, 1, 2, W), normal(3, 1, 2, A), lo_BK, hi_BK, position_BK)


@pytest.fixture(scope="module")
def head():
    """A trained-looking expert: every parameter random."""
    graph, state = nnx.split(jax.eval_shape(lambda: FlowHead(Init(jax.random.key(0)), MODEL)))
    return nnx.merge(graph, random_like(state, std=0.3))


def running(count, delay, seed=5):
    counts = [jnp.full((1, 2), n, jnp.int32) for n in (count, delay)]
    return Running(normal(seed, 1, 2, C, A), *counts)


def sampled(function, head, prefix, *args):
    """Compiled, with the module's arrays as arguments."""
    graph, state = nnx.split(head)
    noise = normal(9, 1, 2, C, A)
    return np.asarray(jax.jit(lambda s: function(nnx.merge(graph, s), noise, ROBOT, prefix, *args))(state))


def ordinary(head, prefix):
    return sampled(lambda flow, *rest: flow.sample(*rest), head, prefix)


def test_weights_are_one_for_what_is_carried_out_then_fall_and_end_with_the_running_chunk():
    """Equation 5 with delay 2 and an overlap of 4 of 5 steps: left_i = (4 - i) / 3."""
    left = np.array([2 / 3, 1 / 3])
    expected = [1, 1, *(left * np.expm1(left) / np.expm1(1)), 0]
    np.testing.assert_allclose(overlap_weights(running(4, 2))[0, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(overlap_weights(running(0, 0)), 0)
    np.testing.assert_array_equal(overlap_weights(running(C, C)), 1)
    np.testing.assert_array_equal(overlap_weights(running(2, 4))[0, 0], [1, 1, 0, 0, 0])  # no more than there is


@pytest.mark.parametrize("sample", [sample_guided, sample_after])
def test_without_a_running_chunk_or_delay_it_is_the_ordinary_policy(head, prefix, sample):
    np.testing.assert_allclose(sampled(sample, head, prefix, running(0, 0)), ordinary(head, prefix), atol=2e-6)


def test_one_guided_step_adds_the_vector_jacobian_product_of_the_denoised_chunk(head, prefix):
    """Against central differences of x - tau v(x), one input at a time, in the first Euler step at tau = 1, where the
    weight is at its cap, and in a later one where it is (tau^2 + (1 - tau)^2) / (tau (1 - tau))."""
    ahead = running(4, 1)
    noise, graph_state = np.asarray(normal(9, 1, 2, C, A)), nnx.split(head)

    @jax.jit
    def velocity(x, tau):
        return nnx.merge(*graph_state).velocity(x, jnp.full((1, 2), tau), ROBOT, prefix)

    def guided_velocity(x, tau, cap):
        denoised = lambda x: np.asarray(x - tau * velocity(jnp.asarray(x), tau), "f8")  # noqa: E731
        error = np.asarray(overlap_weights(ahead), "f8")[..., None] * (ahead.action_BKCA - denoised(x))
        pull, step = np.zeros(x.shape), 1e-2
        for index in np.ndindex(x.shape):
            shift = np.zeros(x.shape, "f4")
            shift[index] = step
            column = (denoised(x + shift) - denoised(x - shift)) / (2 * step)
            pull[index] = np.sum(error * column)
        weight = min(cap, (tau**2 + (1 - tau) ** 2) / max(tau * (1 - tau), 1e-12))
        return np.asarray(velocity(jnp.asarray(x), tau)) - weight * pull

    steps, x, cap = MODEL.flow.num_steps, noise, 3.0
    for step in range(steps):
        x = (x - guided_velocity(x, 1 - step / steps, cap) / steps).astype("f4")
    found = sampled(sample_guided, head, prefix, ahead, cap)
    np.testing.assert_allclose(found, x, atol=2e-3)
    plain = dataclasses.replace(ahead, count_BK=0 * ahead.count_BK)
    assert np.abs(sampled(sample_guided, head, prefix, plain, cap) - found).max() > 0.1


def test_guidance_draws_the_start_towards_the_running_chunk_and_leaves_the_end_alone_where_actions_are_independent():
    """The exact field of standard normal actions: v = (2 tau - 1) / (tau^2 + (1 - tau)^2) x, each action on its own."""

    class Independent(FlowHead):
        def __init__(self):
            self.config = FlowHeadConfig(width=2, hidden_dim=1, num_steps=20)

        def velocity(self, noisy_BKCA, tau, embodiment_BK, prefix):
            tau = tau[..., None, None]
            return (2 * tau - 1) / (tau**2 + (1 - tau) ** 2) * noisy_BKCA

    noise, ahead = normal(9, 1, 2, C, A), running(3, 2)
    plain = Independent().sample(noise, ROBOT, None)
    guided = sample_guided(Independent(), noise, ROBOT, None, ahead)
    off = lambda chunk: np.abs(np.asarray(chunk - ahead.action_BKCA)).mean((0, 1, 3))  # noqa: E731
    assert (off(guided)[:2] < 0.1 * off(plain)[:2]).all()
    assert off(guided)[2] < off(plain)[2]
    np.testing.assert_array_equal(guided[:, :, 3:], plain[:, :, 3:])


@pytest.mark.parametrize("delay", [1, 3])
def test_a_clean_prefix_is_kept_exactly_and_the_rest_answers_to_it(head, prefix, delay):
    found = sampled(sample_after, head, prefix, running(4, delay))
    np.testing.assert_array_equal(found[:, :, :delay], running(4, delay).action_BKCA[:, :, :delay])
    other = sampled(sample_after, head, prefix, running(4, delay, seed=6))
    assert np.abs(found - other)[:, :, delay:].max() > 1e-3


def test_every_action_may_have_a_flow_time_of_its_own(head, prefix):
    """Equal times are the time of the chunk; an action's own time reaches its velocity."""
    noisy, (graph, state) = normal(9, 1, 2, C, A), nnx.split(head)
    velocity = jax.jit(lambda tau: nnx.merge(graph, state).velocity(noisy, tau, ROBOT, prefix))
    one, each = velocity(jnp.full((1, 2), 0.6)), jnp.full((1, 2, C), 0.6)
    np.testing.assert_allclose(velocity(each), one, atol=1e-6)
    other = velocity(each.at[0, 1, 0].set(0.0))
    np.testing.assert_array_equal(other[0, 0], velocity(each)[0, 0])
    assert np.abs(other[0, 1, 0] - one[0, 1, 0]).max() > 1e-2
