"""Imported models compute what their own library computed: logits, loss and every gradient."""

import functools

import jax
import numpy as np
import pytest

from model.model import join
from serving.interchange.files import ModelFolder
from serving.interchange.stacking import flat
from serving.interchange.tensors import Entry, write_part
from tests.serving.interchange.folders import REFERENCES
from tests.serving.interchange.references import assert_close, document, load, logits_by_pieces, next_token_loss, rows

NAMES = ("gemma3_text", "gemma4_dense", "gemma4_moe", "gemma4_tied_values", "mixtral", "qwen3_moe")
pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.cache
def imported(name):
    """(folder, graph, params, buffers, expected) with layers one by one."""
    return *load(REFERENCES / name), np.load(REFERENCES / name / "expected.npz")


def packed(expected, num_slots):
    """Both documents in one row, then padding."""
    return rows(tuple(document(expected[f"tokens/{i}"], ()) for i in (0, 1)), slots=num_slots, side=0)


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_packed_and_padded_documents_equal_those_of_each_alone(name):
    _, graph, params, buffers, expected = imported(name)
    batch = packed(expected, 40)
    model = join(graph, params, buffers)
    logits = jax.jit(lambda: model.token_logits(model(batch).hidden_BTD))()[0]
    want = np.concatenate([expected["logits/0"], expected["logits/1"]])
    assert_close(logits[: len(want)], want)


@pytest.mark.parametrize("name", NAMES)
def test_a_document_read_through_caches_has_the_same_logits(name):
    """Eight slots at once, then one by one, past the windows of local layers."""
    folder, graph, params, buffers, expected = imported(name)
    row = rows((document(expected["tokens/0"], ()),), slots=24, side=0)
    assert_close(logits_by_pieces(folder.config, graph, (params, buffers), row, cuts=(8,)), expected["logits/0"])


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_equal_those_of_the_reference(name):
    folder, graph, params, buffers, expected = imported(name)
    batch = packed(expected, 34)

    def loss_of(params):
        model = join(graph, params, buffers)
        return next_token_loss(model.token_logits(model(batch).hidden_BTD)[0], batch)

    loss, gradients = jax.jit(jax.value_and_grad(loss_of))(params)
    assert loss == pytest.approx(float(expected["loss"]), rel=1e-5)
    ours = {path: np.asarray(leaf) for path, leaf in flat(gradients).items()}
    compared = 0
    for entry in folder.architecture.entries(folder.config):
        if entry.theirs.endswith("layer_scalar"):
            continue  # a constant there
        want = reference_gradient(entry, expected)
        got = write_part(entry, ours[entry.ours])
        assert np.linalg.norm(got - want) <= 1e-4 * np.linalg.norm(want) + 1e-7, entry.theirs
        compared += 1
    assert compared > 20


def reference_gradient(entry: Entry, expected) -> np.ndarray:
    """transformers computes with fused experts, also where it stores them one by one."""
    name = f"gradient/{entry.theirs}".replace("block_sparse_moe", "mlp")
    if name in expected:
        return expected[name]
    layer = ".".join(entry.theirs.split(".")[:3])
    fused = "gate_up_proj" if entry.ours.endswith("gate_up") else "down_proj"
    by_expert = expected[f"gradient/{layer}.mlp.experts.{fused}"][entry.index[0]]
    return by_expert[entry.index[2]] if len(entry.index) == 3 else by_expert


@pytest.mark.parametrize("name", NAMES)
def test_the_config_comes_back(name):
    folder = ModelFolder(REFERENCES / name)
    written = folder.architecture.write_config(folder.config)
    again = folder.architecture.read_config(written | {"vocab_size": folder.vocab_size})
    assert again == folder.config
    assert {field: folder.fields[field] for field in written if field in folder.fields} == {
        field: value for field, value in written.items() if field in folder.fields
    }
