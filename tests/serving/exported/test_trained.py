"""What few bits do to weights that were trained: training gives them outliers that random numbers lack."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.vocabulary import Vocabulary
from model.model import create, split
from model.quantization import Quantization, contracted_dims
from serving.exported.folder import read_model, write_rest
from serving.exported.weights import Weights
from serving.interchange.source import Source
from serving.interchange.stacking import flat, nested
from serving.model import LoadedModel
from serving.quantize import dequantize, quantize
from tests.serving.interchange.folders import TEXT, gemma, trained
from tests.serving.random_text import unpadded
from train.checkpoint import Checkpoint

STEPS, LENGTH, ROWS = 80, 48, 8


def loss_of(model, ids_BT):
    zeros = jnp.zeros_like(ids_BT)
    row = unpadded([0] * ids_BT.shape[1])
    batch = dataclasses.replace(
        row, tokens=ids_BT, segment_ids=zeros + 1, span_ids=zeros, positions=zeros + row.positions
    )
    logits_BTV = model.token_logits(model(batch).hidden_BTD)[:, :-1]
    logprobs = jax.nn.log_softmax(logits_BTV)
    return -jnp.take_along_axis(logprobs, ids_BT[:, 1:, None], axis=-1).mean(), logits_BTV


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A small Gemma 3 that learned to continue Shakespeare: (checkpoint, rows of text)."""
    vocabulary = Vocabulary.train([TEXT], 384)
    config = gemma(model_dim=48, num_layers=3, scan=False)
    graph, params, buffers = split(create(config, vocabulary.size, 0))
    ids = np.array(vocabulary.encode(TEXT), np.int32)
    loaded = LoadedModel(config, vocabulary, {}, graph, params, buffers)

    @jax.jit
    def step(params, mean, square, ids_BT, t):
        gradient = jax.grad(lambda p: loss_of(loaded.module(p, buffers), ids_BT)[0])(params)
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
        square = jax.tree.map(lambda s, g: 0.98 * s + 0.02 * g * g, square, gradient)
        rate = 1e-2 * jnp.minimum(1, t / 20)
        new = jax.tree.map(lambda p, m, s: p - rate * m / (jnp.sqrt(s) + 1e-6), params, mean, square)
        return new, mean, square

    rng, zeros = np.random.default_rng(0), jax.tree.map(jnp.zeros_like, params)
    mean, square = zeros, zeros
    rows = lambda starts: np.stack([ids[s : s + LENGTH] for s in starts])  # noqa: E731
    for t in range(STEPS):
        params, mean, square = step(params, mean, square, rows(rng.integers(0, len(ids) - LENGTH, ROWS)), t)
    path = trained(tmp_path_factory.mktemp("run") / "base", config, params, vocabulary, buffers)
    return Checkpoint.open(path), rows(range(0, 16 * LENGTH, LENGTH))


def judged(loaded, rows):
    run = jax.jit(lambda params, buffers, ids: loss_of(loaded.module(params, buffers), ids))
    loss, logits = run(loaded.params, loaded.buffers, rows)
    return float(loss), np.asarray(logits)


# The most that the loss may rise, and the root mean square of logits' change over their deviation.
BOUNDS = [(Quantization("int8"), 0.002, 0.01), (Quantization("int4", 16), 0.01, 0.15)]


@pytest.mark.parametrize(("form", "rise", "apart"), BOUNDS, ids=lambda value: getattr(value, "kind", ""))
def test_a_trained_model_loses_little_and_is_that_of_the_stored_numbers(form, rise, apart, taught, tmp_path):
    checkpoint, rows = taught
    loaded = LoadedModel.of(checkpoint)
    before, logits = judged(loaded, rows)
    assert before < 4.0  # of 5.9 untrained: it has learned something that it can lose
    source = Source(checkpoint)
    weights = Weights.of(source, form)
    weights.write(tmp_path, source, max_shard_bytes=1 << 40)
    write_rest(tmp_path, source, weights, functions={})
    after, found = judged(read_model(tmp_path), rows)
    assert after < before + rise
    assert 0 < np.sqrt(np.mean((found - logits) ** 2)) < apart * logits.std()

    def as_stored(path, array):
        dims = contracted_dims(path, array.ndim, tied_head=True)
        return array if dims is None else dequantize(*quantize(np.asarray(array), dims, form), array.shape, dims, form)

    rounded = nested({path: as_stored(path, array) for path, array in flat(loaded.params).items()})
    np.testing.assert_array_equal(found, judged(dataclasses.replace(loaded, params=rounded), rows)[1])
