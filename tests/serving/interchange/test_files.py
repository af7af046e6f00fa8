"""Imported models compute what their own library computed: logits, loss and every gradient."""

import dataclasses
import functools
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.cache import empty_cache
from model.model import create, join, split
from serving.interchange.files import ModelFolder
from serving.interchange.tensors import Entry, write_part
from train.optimizer import name_of

REFERENCES = Path("tests/assets/transformers")
NAMES = ("gemma3_text", "gemma4_dense", "gemma4_moe", "gemma4_tied_values", "mixtral", "qwen3_moe")
pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.cache
def imported(name):
    """(folder, graph, params, buffers, expected) with layers one by one."""
    folder = ModelFolder(REFERENCES / name)
    config = dataclasses.replace(folder.config, scan=False)
    graph, params, buffers = split(jax.eval_shape(lambda: create(config, folder.vocab_size, 0)))
    flat = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    arrays = {path: np.full(leaf.shape, np.nan, np.float32) for path, leaf in flat.items()}
    for entry, part in folder.parts({path: leaf.shape for path, leaf in flat.items()}):
        arrays[entry.ours][entry.index] = part
    assert not any(np.isnan(array).any() for array in arrays.values())  # every element came from the file
    params = jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(arrays[name_of(path)]), params)
    buffers = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), buffers)
    return folder, graph, params, buffers, np.load(REFERENCES / name / "expected.npz")


def packed(expected, num_slots):
    """Both documents in one row, then padding."""
    documents = [expected[f"tokens/{i}"] for i in (0, 1)]
    fields = {
        "tokens": np.concatenate(documents),
        "segment_ids": np.repeat([1, 2], [len(d) for d in documents]),
        "positions": np.concatenate([np.arange(len(d)) for d in documents]),
    }
    fields = {n: jnp.asarray(np.pad(x, (0, num_slots - len(x)))[None].astype("i4")) for n, x in fields.items()}
    return SimpleNamespace(**fields, span_ids=jnp.zeros((1, num_slots), "i4"), media={}, values={})


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_packed_and_padded_documents_equal_those_of_each_alone(name):
    _, graph, params, buffers, expected = imported(name)
    batch = packed(expected, 40)
    model = join(graph, params, buffers)
    logits = jax.jit(lambda: model.token_logits(model(batch).hidden_BTD))()[0]
    want = np.concatenate([expected["logits/0"], expected["logits/1"]])
    assert np.abs(logits[: len(want)] - want).max() <= 1e-4 * max(1, np.abs(want).max())
    assert want.std() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_a_document_read_through_caches_has_the_same_logits(name):
    """Eight slots at once, then one by one, past the windows of local layers."""
    folder, graph, params, buffers, expected = imported(name)
    cache, logits = empty_cache(dataclasses.replace(folder.config, scan=False), 1, max_slots=24), []

    @jax.jit
    def extend(tokens, positions, cache):
        model, ones = join(graph, params, buffers), jnp.ones_like(tokens)
        fields = {"tokens": tokens, "positions": positions, "segment_ids": ones, "span_ids": ones * 0}
        hidden_BTD, cache = model.extend(SimpleNamespace(**fields, media={}, values={}), cache)
        return model.token_logits(hidden_BTD)[0], cache

    tokens = expected["tokens/0"]
    for slots in np.split(np.arange(len(tokens)), range(8, len(tokens))):
        part, cache = extend(tokens[None, slots], slots[None].astype("i4"), cache)
        logits.append(part)
    want = expected["logits/0"]
    assert np.abs(np.concatenate(logits) - want).max() <= 1e-4 * max(1, np.abs(want).max())


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_equal_those_of_the_reference(name):
    folder, graph, params, buffers, expected = imported(name)
    batch = packed(expected, 34)
    target = jnp.roll(batch.tokens[0], -1)
    counts = (batch.segment_ids[0] == jnp.roll(batch.segment_ids[0], -1)) & (jnp.arange(34) < 33)

    def loss_of(params):
        model = join(graph, params, buffers)
        logprobs = jax.nn.log_softmax(model.token_logits(model(batch).hidden_BTD)[0])
        return -jnp.sum(jnp.take_along_axis(logprobs, target[:, None], 1)[:, 0] * counts) / counts.sum()

    loss, gradients = jax.jit(jax.value_and_grad(loss_of))(params)
    assert loss == pytest.approx(float(expected["loss"]), rel=1e-5)
    ours = {name_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)}
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
