"""One scan over repeats of the pattern, and a remainder, equal the layers one after the other."""

import dataclasses

import jax
import numpy as np
import pytest

from model.config import AttentionConfig, DenseConfig, ModelConfig, MoEConfig, RecurrentConfig
from model.model import create, join, next_buffers, split
from tests.model.documents import VOCAB, pack, robot_document
from tests.model.weights import random_states

LAYERS = 5
CONFIG = ModelConfig(
    model_dim=16,
    num_layers=LAYERS,
    pattern=("recurrent", "local"),
    ffn=("moe", "dense"),
    local_attention=AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8, window=3),
    recurrent=RecurrentConfig(num_states=4),
    dense=DenseConfig(hidden_dim=16),
    moe=MoEConfig(num_experts=6, top_k=1, hidden_dim=8, bias_rate=0.1),
)
# Five layers as two repeats of two and a remainder of one, and all of them as the remainder of a pattern of six.
PERIODS = {"scanned": 2, "unrolled": 6}
pytestmark = pytest.mark.usefixtures("quick_compilation")


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
        config = dataclasses.replace(CONFIG, pattern=(CONFIG.pattern * 3)[:period], ffn=(CONFIG.ffn * 3)[:period])
        graph, params, buffers = split(create(config, VOCAB, seed=0))

        @jax.jit
        def run(params, buffers, graph=graph, config=config):
            output = join(graph, params, buffers)(batch, want_keys_values=True)
            return output.hidden_BTD, output.keys_values, next_buffers(config, buffers, output.router)

        found[name] = (params, *run(params, buffers))
    return found


def test_every_layer_starts_with_the_same_values_however_it_is_run(forwards):
    for layer in range(LAYERS):
        scanned, unrolled = (layer_of(forwards[name][0], PERIODS[name], layer) for name in PERIODS)
        jax.tree.map(np.testing.assert_array_equal, scanned, unrolled)


def test_scanned_layers_give_what_unrolled_layers_give(forwards):
    (_, hidden, keys_values, _), (_, *unrolled, _) = forwards.values()
    np.testing.assert_allclose(unrolled[0], hidden, atol=1e-5)
    assert len(keys_values) == CONFIG.mixers.count("local") == len(unrolled[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), unrolled[1], keys_values)


def test_the_balancing_bias_of_each_router_goes_back_to_its_own_layer(forwards):
    routers = [layer for layer, ffn in enumerate(CONFIG.feed_forwards) if ffn == "moe"]
    scanned, unrolled = (
        [layer_of(forwards[name][3], period, layer)["ffn"]["bias"].tolist() for layer in routers]
        for name, period in PERIODS.items()
    )
    assert scanned == unrolled
    assert {abs(bias) for layer in scanned for bias in layer} <= {0.0, np.float32(CONFIG.moe.bias_rate)}
    assert len({tuple(bias) for bias in scanned}) == len(routers)  # they differ, so mixing them up would show


REMATERIALISED = ("none", "dots", "block")


@pytest.fixture(scope="module")
def gradients(batch):
    """Of each policy: params -> (loss, gradient), and the parameters."""
    found = {}
    for remat in REMATERIALISED:
        sections = {"pattern": ("local",), "ffn": ("moe",), "recurrent": None, "dense": None}
        config = dataclasses.replace(CONFIG, num_layers=2, remat=remat, **sections)
        graph, params, buffers = random_states(config, VOCAB)
        hidden = lambda p, g=graph, b=buffers: join(g, p, b)(batch).hidden_BTD  # noqa: E731
        found[remat] = jax.value_and_grad(lambda p, hidden=hidden: (hidden(p) ** 3).mean()), params
    return found


def test_rematerialisation_changes_neither_loss_nor_gradient(gradients):
    losses, slopes = zip(*(jax.jit(gradients[remat][0])(gradients[remat][1]) for remat in REMATERIALISED), strict=True)
    assert max(np.abs(g).max() for g in jax.tree.leaves(slopes[0])) > 0.1
    for loss, slope in zip(losses[1:], slopes[1:], strict=True):
        np.testing.assert_allclose(loss, losses[0], rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), slope, slopes[0])


def test_block_recomputes_every_matrix_product_in_the_backward_pass_and_dots_keeps_them(gradients):
    none, dots, block = (str(jax.make_jaxpr(f)(p)).count("dot_general") for f, p in map(gradients.get, REMATERIALISED))
    assert none <= dots < block
