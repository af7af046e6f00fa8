"""The dropless mixture of experts against a loop over tokens, with empty and overfull experts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import MoEConfig
from model.init import Init
from model.moe import MoE

D, F, E, M = 6, 5, 4, 17


def make(**options) -> MoE:
    return MoE(Init(jax.random.key(0)), MoEConfig(num_experts=E, hidden_dim=F, **{"top_k": 2, **options}), D)


def by_loop(moe: MoE, x_MD: np.ndarray, routed_MD: np.ndarray | None = None) -> np.ndarray:
    """Every token through its experts, one at a time."""
    routed_MD = x_MD if routed_MD is None else routed_MD
    if moe.config.router_norm:
        routed_MD = routed_MD / np.sqrt((routed_MD**2).mean(1, keepdims=True) + 1e-6)
        routed_MD = routed_MD * np.asarray(moe.router_scale[...]) / np.sqrt(D)
    factor_E = np.asarray(moe.expert_scale[...]) if moe.config.expert_scale else np.ones(E)
    logits = routed_MD @ np.asarray(moe.router[...])
    scores = 1 / (1 + np.exp(-logits)) if moe.config.router == "sigmoid" else np.asarray(jax.nn.softmax(logits))
    out = np.zeros_like(x_MD)
    for m, x in enumerate(x_MD):
        chosen = np.argsort(-(scores[m] + np.asarray(moe.bias[...])), kind="stable")[: moe.config.top_k]
        for e in chosen:
            gate, up = np.split(x @ np.asarray(moe.gate_up[...])[e], 2)
            hidden = np.asarray(jax.nn.silu(gate)) * up
            out[m] += factor_E[e] * scores[m, e] / scores[m, chosen].sum() * (hidden @ np.asarray(moe.down[...])[e])
    return out


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
@pytest.mark.parametrize("bias", [(0, 0, 0, 0), (9, 0, 0, -9), (9, 9, 0, 0)], ids=["mixed", "one full", "two empty"])
def test_output_equals_a_loop_over_experts(router, bias):
    moe = make(router=router)
    moe.bias[...] = jnp.array(bias, jnp.float32)
    x_MD = np.random.default_rng(0).normal(size=(M, D)).astype("f4")
    out, stats = moe(jnp.array(x_MD)[None], jnp.ones((1, M), bool))
    np.testing.assert_allclose(out[0], by_loop(moe, x_MD), atol=2e-6)
    np.testing.assert_allclose(jnp.sum(stats.load_E), 1, rtol=1e-6)


@pytest.mark.parametrize(
    "options", [{"router_norm": True}, {"expert_scale": True}, {"router_norm": True, "expert_scale": True}]
)
def test_choices_that_start_as_plain_routing_learn_their_scales(options):
    moe = make(**options)
    x_MD = np.random.default_rng(3).normal(size=(M, D)).astype("f4") * 4
    if moe.config.router_norm:
        np.testing.assert_array_equal(moe.router_scale[...], 1)
        moe.router_scale[...] = jnp.array([0.5, 4, -2, 1, 9, 0])
    if moe.config.expert_scale:
        np.testing.assert_array_equal(moe.expert_scale[...], 1)
        moe.expert_scale[...] = jnp.array([0.5, 2, -1, 0])
    out, _ = moe(jnp.array(x_MD)[None], jnp.ones((1, M), bool))
    np.testing.assert_allclose(out[0], by_loop(moe, x_MD), rtol=1e-5, atol=1e-5)


def test_the_router_may_read_something_else_than_the_experts():
    moe = make()
    x_MD, routed_MD = np.random.default_rng(4).normal(size=(2, M, D)).astype("f4")
    out, stats = moe(jnp.array(x_MD)[None], jnp.ones((1, M), bool), routed_BTD=jnp.array(routed_MD)[None])
    _, own = moe(jnp.array(routed_MD)[None], jnp.ones((1, M), bool))
    np.testing.assert_allclose(out[0], by_loop(moe, x_MD, routed_MD), atol=2e-6)
    np.testing.assert_array_equal(stats.load_E, own.load_E)


def test_statistics_and_losses_count_real_tokens_only():
    moe = make(balance_loss=0.5, z_loss=0.25)
    x_MD = np.random.default_rng(1).normal(size=(M, D)).astype("f4")
    real = np.arange(M) < 9
    _, stats = moe(jnp.array(x_MD)[None], jnp.array(real)[None])
    logits = x_MD[real] @ np.asarray(moe.router[...])
    probability = np.asarray(jax.nn.softmax(logits))
    load = np.bincount(np.argsort(-probability, axis=1)[:, :2].ravel(), minlength=E) / (2 * 9)
    z = np.mean(np.asarray(jax.nn.logsumexp(logits, axis=1)) ** 2)
    np.testing.assert_allclose(stats.load_E, load, atol=1e-6)
    np.testing.assert_allclose(stats.loss, 0.5 * E * np.sum(load * probability.mean(0)) + 0.25 * z, rtol=1e-5)
    np.testing.assert_allclose(stats.entropy, -np.mean(np.sum(probability * np.log(probability), 1)), rtol=1e-5)


def test_balancing_bias_moves_towards_equal_load():
    moe = make(bias_rate=0.1)
    _, stats = moe(jnp.ones((1, M, D)), jnp.ones((1, M), bool))
    np.testing.assert_allclose(stats.bias_E, 0.1 * np.sign(1 / E - np.asarray(stats.load_E)))
    assert set(np.asarray(stats.load_E)) == {0.0, 0.5}  # equal tokens choose the same two experts


def test_shared_expert_is_added_for_every_token():
    moe = make(shared_dim=3)
    x_MD = np.random.default_rng(2).normal(size=(M, D)).astype("f4")
    out, _ = moe(jnp.array(x_MD)[None], jnp.ones((1, M), bool))
    np.testing.assert_allclose(out[0], by_loop(moe, x_MD) + moe.shared(jnp.array(x_MD)), atol=2e-6)
