"""Adapters beside frozen parameters: the same model at the start, the same model merged, little to optimise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import AttentionConfig, DenseConfig, ModelConfig, MoEConfig
from model.model import axes_of, create, join, split
from tests.model.documents import VOCAB, pack, robot_document
from tests.model.weights import random_like, random_states
from train.lora import Lora, LoraConfig, merged_weight
from train.optimizer import OptimizerConfig, build_optimizer
from train.teacher import by_name

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = ModelConfig(
    model_dim=16,
    num_layers=2,
    pattern=("global",),
    ffn=("moe",),
    global_attention=AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8),
    moe=MoEConfig(num_experts=3, top_k=2, hidden_dim=8),
    reward=True,
)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    packed = pack([robot_document(rng, 9, 1), robot_document(rng, 12, 2)], num_slots=24)
    return jax.tree.map(jnp.asarray, dataclasses.replace(packed, media={}, values={}))


@pytest.fixture(scope="module")
def axes():
    return by_name(axes_of(jax.eval_shape(lambda: create(CONFIG, VOCAB, 0)))[0])


@pytest.fixture(scope="module")
def lora(axes):
    return Lora(LoraConfig(rank=4, alpha=8.0, whole=("^reward/",)), axes, seed=0)


@pytest.fixture(scope="module")
def states():
    return random_states(CONFIG, VOCAB, std=0.3)


def logits(graph, params, buffers, batch):
    def run(params):
        model = join(graph, params, buffers)
        return model.token_logits(model(batch).hidden_BTD)

    return jax.jit(run)(params)


def test_the_first_step_meets_the_model_as_it_was(lora, states, batch):
    plain_graph, params, buffers = states
    joined = lora.joined(lora.begin(params), lora.frozen(params))
    adapted = logits(lora.graph(lambda: create(CONFIG, VOCAB, 0)), joined, buffers, batch)
    np.testing.assert_array_equal(adapted, logits(plain_graph, params, buffers, batch))


def test_the_merged_model_computes_what_the_adapted_one_does(lora, states, batch):
    plain_graph, params, buffers = states
    trained, frozen = random_like(lora.begin(params), seed=7, std=0.2), lora.frozen(params)
    adapted = logits(lora.graph(lambda: create(CONFIG, VOCAB, 0)), lora.joined(trained, frozen), buffers, batch)
    merged = logits(plain_graph, lora.merged(trained, frozen), buffers, batch)
    np.testing.assert_allclose(adapted, merged, atol=1e-6 * np.abs(merged).max())
    assert np.abs(merged - logits(plain_graph, params, buffers, batch)).max() > 0.1


def test_merged_parameters_have_the_names_and_shapes_of_the_model(lora, states):
    _, params, _ = states
    merged = lora.merged(lora.begin(params), lora.frozen(params))
    jax.tree.map(np.testing.assert_array_equal, merged, params)


@pytest.mark.parametrize(
    ("shape", "dims"), [((6, 4), (1, 1)), ((6, 2, 3), (1, 2)), ((2, 3, 6), (2, 1)), ((5, 3, 6, 4), (1, 1))]
)
def test_the_product_is_that_of_matrices_in_every_layer_and_expert(shape, dims):
    """Against numpy, one stacked matrix at a time; heads and head widths are one side of a matrix."""
    rng = np.random.default_rng(0)
    stacked, inputs = len(shape) - sum(dims), shape[len(shape) - sum(dims) : len(shape) - dims[1]]
    outputs = shape[len(shape) - dims[1] :]
    base, down, up = (
        rng.normal(size=s) for s in (shape, (*shape[:stacked], *inputs, 2), (*shape[:stacked], 2, *outputs))
    )
    found = merged_weight(base, down, up, 0.5, dims)
    for index in np.ndindex(*shape[:stacked]):
        product = down[index].reshape(-1, 2) @ up[index].reshape(2, -1)
        np.testing.assert_allclose(found[index], base[index] + 0.5 * product.reshape(base[index].shape))


def test_only_adapters_and_what_is_trained_whole_have_a_gradient_and_an_optimiser_state(lora, states, batch):
    _, params, buffers = states
    trained, frozen = lora.begin(params), lora.frozen(params)
    graph = lora.graph(lambda: create(CONFIG, VOCAB, 0))

    def loss(trained):
        output = (model := join(graph, lora.joined(trained, frozen), buffers))(batch)
        return jnp.sum(model.reward(output.hidden_BTD) ** 2)

    gradient = jax.jit(jax.grad(loss))(trained)
    sizes = {name: np.abs(leaf).max() for name, leaf in by_path(gradient).items()}
    assert set(sizes) == set(lora.axes)
    read = [name for name in sizes if "router" not in name]  # a router's may be zero where experts agree
    assert all(sizes[name] == 0 for name in read if name.endswith("/lora_down"))  # as up is still zero
    assert all(sizes[name] > 0 for name in read if not name.endswith("/lora_down"))
    optimizer = build_optimizer(OptimizerConfig(), 10, trained, lora.axes)
    state = optimizer.init(trained)
    counted = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert counted(state) <= 2 * counted(trained) + 8


def test_the_optimisers_state_is_as_small_as_the_formula_says(axes, states):
    """2 moments of r (I + O) numbers for each adapted matrix [I, O], of a model that is wide and not tiny."""
    wide = ModelConfig(
        model_dim=256,
        num_layers=4,
        pattern=("global",),
        ffn=("dense",),
        global_attention=AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=64),
        dense=DenseConfig(hidden_dim=1024),
    )
    model = jax.eval_shape(lambda: create(wide, VOCAB, 0))
    _, params, _ = split(model)
    own = Lora(LoraConfig(rank=8), by_name(axes_of(model)[0]), seed=0)
    trained = jax.eval_shape(own.begin, params)
    state = jax.eval_shape(build_optimizer(OptimizerConfig(), 10, trained, own.axes).init, trained)
    counted = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    sides = [(256, 256), (256, 128), (256, 128), (256, 256), (256, 1024), (256, 1024), (1024, 256)]
    assert counted(trained) == 4 * 8 * sum(i + o for i, o in sides)
    assert 2 * counted(trained) <= counted(state) <= 2 * counted(trained) + 8
    assert counted(trained) < 0.06 * counted(params)


def test_adapters_lie_where_their_matrix_does(lora):
    assert lora.axes["stack/repeated/0/mixer/query/lora_down"] == ("layers", "embed", "lora")
    assert lora.axes["stack/repeated/0/mixer/query/lora_up"] == ("layers", "lora", "heads", "head_dim")
    assert lora.axes["stack/repeated/0/mixer/out/lora_down"] == ("layers", "heads", "head_dim", "lora")
    assert lora.axes["stack/repeated/0/ffn/gate_up/lora_up"] == ("layers", "experts", "lora", "mlp")
    assert lora.axes["reward/kernel"] == ("embed",)


def test_a_pattern_that_matches_no_matrix_is_refused_with_the_names(axes):
    with pytest.raises(ValueError, match=r"targets has 'norm/', which matches none of the names \['stack/"):
        Lora(LoraConfig(targets=("norm/",)), axes, 0)
    with pytest.raises(ValueError, match="whole has 'value_head', which matches none"):
        Lora(LoraConfig(whole=("value_head",)), axes, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"rank": 0}, "rank is 0; it must"), ({"alpha": 0.0}, "alpha is 0.0"), ({"targets": ()}, "targets is empty")],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LoraConfig(**changes)


def by_path(tree):
    return {
        jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree_util.tree_leaves_with_path(tree)
    }
