"""A dense feed-forward and experts side by side, and the layer around them, in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.block import Block
from model.config import AttentionConfig, DenseConfig, ModelConfig, MoEConfig
from model.dense_moe import DenseMoE
from model.init import Init
from model.model import create, join, next_buffers, split
from model.structure import structure_of
from tests.model.documents import VOCAB, pack, robot_document
from tests.model.weights import random_like, random_states

D, T = 6, 11
CONFIG = ModelConfig(
    model_dim=D,
    num_layers=3,
    pattern=("global",),
    ffn=("dense_moe",),
    global_attention=AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=4),
    dense=DenseConfig(hidden_dim=8),
    moe=MoEConfig(num_experts=4, top_k=2, hidden_dim=5, router_norm=True, bias_rate=0.1),
    norms="sandwich",
    layer_scale=True,
)
REAL = jnp.ones((1, T), bool)
X_BTD = jnp.array(np.random.default_rng(0).normal(size=(1, T, D)) * 3, jnp.float32)
pytestmark = pytest.mark.usefixtures("quick_compilation")


def randomised(module):
    """Random weights everywhere, scales and the balancing bias included."""
    graph, state = nnx.split(module)
    return nnx.merge(graph, random_like(state, std=0.5))


@pytest.mark.parametrize("norms", ["pre", "sandwich"])
def test_the_two_are_added_each_between_norms_of_its_own(norms):
    both = randomised(DenseMoE(Init(jax.random.key(0)), dataclasses.replace(CONFIG, norms=norms)))
    out_BTD, stats = both(X_BTD, REAL)
    dense_BTD = both.dense(both.dense_norm(X_BTD))
    moe_BTD, moe_stats = both.moe(both.moe_norm(X_BTD), REAL, routed_BTD=X_BTD)
    if norms == "sandwich":
        dense_BTD, moe_BTD = both.dense_post_norm(dense_BTD), both.moe_post_norm(moe_BTD)
    np.testing.assert_allclose(out_BTD, dense_BTD + moe_BTD, atol=1e-5)
    np.testing.assert_array_equal(stats.load_E, moe_stats.load_E)
    assert min(np.abs(dense_BTD).max(), np.abs(moe_BTD).max()) > 0.1


def test_the_router_reads_what_no_norm_has_changed():
    """A feature that the experts' norm removes can still choose the expert."""
    both = DenseMoE(Init(jax.random.key(0)), CONFIG)
    both.moe_norm.scale[...] = jnp.full(D, -1.0)  # 1 + scale = 0
    both.moe.router[...] = jnp.eye(D, 4) * 100
    x_BTD = jnp.zeros((1, T, D)).at[..., 2].set(1.0).at[..., 3].set(0.5)
    _, stats = both(x_BTD, REAL)
    np.testing.assert_array_equal(stats.load_E, [0, 0, 0.5, 0.5])


def test_a_layer_adds_them_to_the_residual_and_scales_the_sum():
    block = randomised(Block(Init(jax.random.key(0)), CONFIG, 0))
    ids = jnp.ones((1, T), jnp.int32)
    structure = structure_of(ids, jnp.arange(T)[None], ids * 0)
    out_BTD, _, _ = block(X_BTD, structure)
    y_BTD, _ = block.mixer(block.mixer_norm(X_BTD), structure)
    x_BTD = X_BTD + block.mixer_post_norm(y_BTD)
    y_BTD, _ = block.ffn(x_BTD, structure.real_BT)
    assert block.layer_scale.shape == ()
    np.testing.assert_allclose(out_BTD, block.layer_scale[...] * (x_BTD + block.ffn_post_norm(y_BTD)), atol=1e-5)


def test_a_fresh_layer_scale_changes_nothing():
    layer = Block(Init(jax.random.key(0)), CONFIG, 0)
    unscaled = Block(Init(jax.random.key(0)), dataclasses.replace(CONFIG, layer_scale=False), 0)
    ids = jnp.ones((1, T), jnp.int32)
    structure = structure_of(ids, jnp.arange(T)[None], ids * 0)
    np.testing.assert_array_equal(layer(X_BTD, structure)[0], unscaled(X_BTD, structure)[0])


def test_scanned_layers_are_the_separate_ones_and_every_router_keeps_its_own_bias():
    rng = np.random.default_rng(1)
    batch = pack([robot_document(rng, 9, 1)], num_slots=12)
    found = []
    for scan in (True, False):
        config = dataclasses.replace(CONFIG, scan=scan)
        graph, params, buffers = split(create(config, VOCAB, seed=0))
        output = jax.jit(lambda p, b, g=graph: join(g, p, b)(batch))(params, buffers)
        bias = next_buffers(config, buffers, output.router)["stack"]
        layers = [bias["remainder"][str(i)] for i in range(3)] if not scan else bias["repeated"]["0"]
        found.append((output.hidden_BTD, jnp.stack([b["ffn"]["moe"]["bias"] for b in layers]) if not scan else layers))
    (scanned, stacked), (separate, biases) = found
    np.testing.assert_allclose(scanned, separate, atol=1e-5)
    np.testing.assert_array_equal(stacked["ffn"]["moe"]["bias"], biases)
    assert set(np.abs(biases).ravel()) <= {0.0, np.float32(0.1)}
    assert np.any(biases)


def test_bfloat16_activations_stay_bfloat16():
    config = dataclasses.replace(CONFIG, dtype="bfloat16", scan=False)
    batch = pack([robot_document(np.random.default_rng(1), 9, 1)], num_slots=12)
    hidden_BTD = join(*random_states(config, VOCAB))(batch).hidden_BTD
    assert hidden_BTD.dtype == jnp.bfloat16
