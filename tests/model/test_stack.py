"""One scan over repeats of the pattern, and a remainder, equal the layers one after the other."""

import dataclasses

import jax
import numpy as np
import pytest

from model.config import AttentionConfig, DenseConfig, ModelConfig, MoEConfig, RecurrentConfig
from model.model import create, join, next_buffers, split
from tests.model.documents import VOCAB, pack, robot_document
from tests.model.weights import random_like, random_states
from train.objectives import next_token

LAYERS = 5
CONFIG = ModelConfig(
    model_dim=16,
    num_layers=LAYERS,
    pattern=("recurrent", "local"),
    ffn=("moe", "dense"),
    local_attention=AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8, window=3),
    recurrent=RecurrentConfig(num_states=4),
    dense=DenseConfig(hidden_dim=16),
    moe=MoEConfig(num_experts=3, top_k=1, hidden_dim=8, bias_rate=0.1),
)
# Five layers as two repeats of two and one more, as one repeat of five, and all as remainder of a pattern of six.
PERIODS = {"scanned": 2, "once": 5, "unrolled": 6}


def expressed(period: int) -> ModelConfig:
    return dataclasses.replace(CONFIG, pattern=(CONFIG.pattern * 3)[:period], ffn=(CONFIG.ffn * 3)[:period])


def layer_of(params, period: int, layer: int):
    """The parameters of one layer, wherever the stack keeps them."""
    repeats = LAYERS // period
    if layer >= repeats * period:
        return params["stack"]["remainder"][str(layer - repeats * period)]
    return jax.tree.map(lambda leaf: leaf[layer // period], params["stack"]["repeated"][str(layer % period)])


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return pack([robot_document(rng, length, i + 1) for i, length in enumerate((9, 12))], num_slots=24)


@pytest.fixture(scope="module")
def forwards(batch):
    """Of each expression of the same layers: the initial parameters, hidden states, keys and values, new buffers."""
    found = {}
    for name, period in PERIODS.items():
        config = expressed(period)
        graph, params, buffers = split(create(config, VOCAB, seed=0))

        @jax.jit
        def run(params, buffers, graph=graph, config=config):
            output = join(graph, params, buffers)(batch, want_keys_values=True)
            return output.hidden_BTD, output.keys_values, next_buffers(config, buffers, output.router)

        found[name] = (params, *run(params, buffers))
    return found


@pytest.mark.parametrize("name", ["once", "unrolled"])
def test_every_layer_starts_with_the_same_values_however_it_is_run(forwards, name):
    for layer in range(LAYERS):
        expected = layer_of(forwards["scanned"][0], PERIODS["scanned"], layer)
        jax.tree.map(np.testing.assert_array_equal, layer_of(forwards[name][0], PERIODS[name], layer), expected)


@pytest.mark.parametrize("name", ["once", "unrolled"])
def test_scanned_layers_give_what_unrolled_layers_give(forwards, name):
    _, hidden, keys_values, _ = forwards["scanned"]
    np.testing.assert_allclose(forwards[name][1], hidden, atol=1e-5)
    assert len(keys_values) == CONFIG.mixers.count("local") == len(forwards[name][2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), forwards[name][2], keys_values)


@pytest.mark.parametrize("name", ["once", "unrolled"])
def test_the_balancing_bias_of_each_router_goes_back_to_its_own_layer(forwards, name):
    biases = []
    for layer in (0, 2, 4):
        bias = layer_of(forwards["scanned"][3], PERIODS["scanned"], layer)["ffn"]["bias"]
        np.testing.assert_array_equal(layer_of(forwards[name][3], PERIODS[name], layer)["ffn"]["bias"], bias)
        assert set(np.abs(bias).tolist()) <= {0.0, np.float32(0.1)}
        biases.append(bias.tolist())
    assert len({tuple(bias) for bias in biases}) > 1  # the routers differ, so mixing them up would show


@pytest.mark.parametrize("seed", [1])
def test_rematerialisation_changes_neither_loss_nor_gradient(batch, seed):
    config = dataclasses.replace(CONFIG, num_layers=3)
    results = {}
    for remat in ("none", "block", "dots"):
        graph, params, buffers = random_states(dataclasses.replace(config, remat=remat), VOCAB, seed)
        total = lambda p, g=graph, b=buffers: next_token.loss(join(g, p, b), batch, jax.random.key(0)).total  # noqa: E731
        results[remat] = jax.jit(jax.value_and_grad(total))(params)
    assert max(np.abs(g).max() for g in jax.tree.leaves(results["none"][1])) > 0.1
    for remat in ("block", "dots"):
        np.testing.assert_allclose(results[remat][0], results["none"][0], rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), results[remat][1], results["none"][1])


def test_blocks_are_recomputed_in_the_backward_pass_only_where_asked_for(batch):
    """The gradient's program holds each block's matrix products once more under `block`."""
    products = {}
    for remat in ("none", "dots", "block"):
        config = dataclasses.replace(CONFIG, num_layers=1, remat=remat)
        graph, params, buffers = random_states(config, VOCAB)
        total = lambda p, g=graph, b=buffers: next_token.loss(join(g, p, b), batch, jax.random.key(0)).total  # noqa: E731
        products[remat] = str(jax.make_jaxpr(jax.grad(total))(params)).count("dot_general")
    assert products["none"] < products["block"]
    assert products["dots"] < products["block"]


def test_random_like_is_what_the_tests_say_it_is():
    tree = random_like({"a": np.zeros((50, 40))}, std=0.5)
    np.testing.assert_allclose(tree["a"].std(), 0.5, rtol=0.1)
