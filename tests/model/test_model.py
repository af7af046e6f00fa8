"""The whole model: where embeddings go, which types its arrays have, how module and state part and join."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.model import axes_of, create, join, split
from tests.model.documents import VOCAB, pack, robot_document
from tests.model.weights import random_states

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return pack([robot_document(rng, length, i + 1) for i, length in enumerate((9, 12))], num_slots=24)


@pytest.fixture
def small(hybrid):
    return dataclasses.replace(hybrid, num_layers=3)


def test_images_and_vectors_take_their_slots_and_tokens_the_others(small, batch):
    model = join(*random_states(small, VOCAB))
    x_TD = model.embed(batch)[0]
    patches_MPD = model.image(batch.media["image"], jnp.float32)[0]
    proprio_KD = model.proprio(batch.values["proprio"], batch.values["embodiment"], jnp.float32)[0]
    expected = np.array(model.tokens.table[...])[batch.tokens[0]] * np.sqrt(small.model_dim)
    for document, start in enumerate((0, 9)):
        expected[start + 2 : start + 6] = patches_MPD[document]
        expected[start + 6] = proprio_KD[document]
    np.testing.assert_allclose(x_TD, expected, rtol=1e-6)


def test_unused_entries_change_nothing(small, batch):
    embed = jax.jit(join(*random_states(small, VOCAB)).embed)
    media, values = dict(batch.media), dict(batch.values)
    assert media["image_slot"][0, 2] == values["proprio_slot"][0, 2] == -1
    media["image"], values["proprio"] = media["image"].copy(), values["proprio"].copy()
    media["image"][0, 2], values["proprio"][0, 2] = 255, 1e6
    garbage = dataclasses.replace(batch, media=media, values=values)
    np.testing.assert_array_equal(embed(garbage), embed(batch))


def test_a_vector_goes_through_the_map_of_its_embodiment_alone(small):
    model = join(*random_states(small, VOCAB))
    kernel_EAD, bias_ED = (np.asarray(w[...]) for w in (model.proprio.kernel, model.proprio.bias))
    values_BKCA = np.random.default_rng(0).normal(size=(1, 2, 3, 5)).astype("f4")
    mapped = model.proprio(values_BKCA, np.array([[1, 0]]), jnp.float32)
    for k, embodiment in enumerate((1, 0)):
        expected = values_BKCA[0, k] @ kernel_EAD[embodiment] + bias_ED[embodiment]
        np.testing.assert_allclose(mapped[0, k], expected, atol=1e-6)


def test_bfloat16_activations_keep_float32_parameters_and_come_close_to_float32(small, batch):
    graph, params, buffers = random_states(small, VOCAB)
    rounding = dataclasses.replace(small, dtype="bfloat16")
    rounding_graph, *abstract = split(jax.eval_shape(lambda: create(rounding, VOCAB, 0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract)} == {jnp.dtype(jnp.float32)}

    def forward(graph, batch):
        model = join(graph, params, buffers)
        output = model(batch, want_keys_values=True)
        return output.hidden_BTD, output.keys_values, model.token_logits(output.hidden_BTD)

    exact, _, exact_logits = jax.jit(lambda batch: forward(graph, batch))(batch)
    rounded, keys_values, logits = jax.jit(lambda batch: forward(rounding_graph, batch))(batch)
    assert {leaf.dtype for leaf in jax.tree.leaves((rounded, keys_values))} == {jnp.dtype(jnp.bfloat16)}
    assert logits.dtype == jnp.float32
    real = batch.segment_ids > 0
    for ours, expected in ((rounded, exact), (logits, exact_logits)):
        error = np.asarray(ours, "f4")[real] - np.asarray(expected)[real]
        assert np.sqrt(np.mean(error**2)) < 3e-2 * np.sqrt(np.mean(np.asarray(expected)[real] ** 2))


def test_splitting_and_joining_gives_the_same_module(small):
    graph, params, buffers = random_states(small, VOCAB)
    _, again, again_buffers = split(join(graph, params, buffers))
    jax.tree.map(np.testing.assert_array_equal, (again, again_buffers), (params, buffers))


def test_every_parameter_and_buffer_has_a_logical_axis_for_each_dim(small):
    model = jax.eval_shape(lambda: create(small, VOCAB, 0))
    _, *states = split(model)
    is_axes = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    for state, axes in zip(states, axes_of(model), strict=True):
        assert jax.tree.structure(state) == jax.tree.structure(axes, is_leaf=is_axes)
        for leaf, names in zip(jax.tree.leaves(state), jax.tree.leaves(axes, is_leaf=is_axes), strict=True):
            assert len(names) == leaf.ndim
    assert axes_of(model)[0]["stack"]["repeated"]["1"]["ffn"]["down"] == ("layers", "experts", "mlp", "embed")
    assert set(states[1]["stack"]["repeated"]["1"]["ffn"]) == {"bias"}
