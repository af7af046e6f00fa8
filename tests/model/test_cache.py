"""Slots read piece by piece through a cache give what one pass over the whole row gives."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.cache import cache_bytes, empty_cache, held_slots
from model.config import AttentionConfig, ModelConfig
from model.layers import restacked, unstacked
from model.model import create, join, split
from tests.model.weights import random_states

pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCAB, WINDOW = 17, 5
FIELDS = ("tokens", "segment_ids", "positions", "span_ids")


@pytest.fixture
def layers(hybrid):
    """Every mixer and both feed-forwards; the window is shorter than the rows."""
    assert hybrid.local_attention is not None
    local = dataclasses.replace(hybrid.local_attention, window=WINDOW)
    text_only = {"image": None, "robot": None, "bins": None, "flow": None}
    return dataclasses.replace(hybrid, num_layers=3, local_attention=local, scan=False, **text_only)


def rows(lengths, seed=0, T=None):
    """Packed rows: each length is a row, given as the lengths of its segments, then padding."""
    rng = np.random.default_rng(seed)
    T = T or max(sum(segments) for segments in lengths)
    shape = (len(lengths), T)
    batch = {name: np.zeros(shape, np.int32) for name in FIELDS}
    batch["tokens"] = rng.integers(0, VOCAB, shape, dtype=np.int32)
    for b, segments in enumerate(lengths):
        start = 0
        for i, length in enumerate(segments):
            batch["segment_ids"][b, start : start + length] = i + 1
            batch["positions"][b, start : start + length] = np.arange(length)
            start += length
    return SimpleNamespace(**batch, media={}, values={})


def piece(batch, slots):
    return {name: jnp.asarray(getattr(batch, name)[:, slots]) for name in FIELDS}


@functools.partial(jax.jit, static_argnums=0)
def extend(config, part, cache):
    model = join(*random_states(config, VOCAB))
    return model.extend(SimpleNamespace(**part, media={}, values={}), cache)


def read(config, batch, pieces):
    """hidden_BTD of the whole rows, read through a cache in pieces of these lengths."""
    cache, hidden, start = empty_cache(config, batch.tokens.shape[0], max_slots=24), [], 0
    for length in pieces:
        part, cache = extend(config, piece(batch, slice(start, start + length)), cache)
        hidden.append(part)
        start += length
    return jnp.concatenate(hidden, 1), cache


def full(config, batch):
    run = jax.jit(
        lambda part: join(*random_states(config, VOCAB))(SimpleNamespace(**part, media={}, values={})).hidden_BTD
    )
    return run(piece(batch, slice(None)))


def assert_equal_where_real(actual, expected, batch):
    real = batch.segment_ids[:, : actual.shape[1]] > 0
    np.testing.assert_allclose(actual[real], expected[:, : actual.shape[1]][real], atol=2e-5)


@pytest.mark.parametrize(
    "pieces",
    [[20], [8, 8, 4], [2] * 10, [1] * 20, [8, *[1] * 12], [8, 1, 1, 8, 1, 1]],
    ids=["whole", "chunks", "pairs", "one by one", "prefill then decode", "mixed"],
)
def test_any_pieces_of_a_row_give_the_whole_pass(layers, pieces):
    batch = rows([[20], [20]])
    actual, _ = read(layers, batch, pieces)
    assert_equal_where_real(actual, full(layers, batch), batch)


@pytest.mark.parametrize("pieces", [[8, 8, 4], [4, 4, *[1] * 12]])
def test_packed_segments_stay_apart_across_pieces(layers, pieces):
    batch = rows([[6, 9, 5], [11, 1, 8]])
    actual, _ = read(layers, batch, pieces)
    assert_equal_where_real(actual, full(layers, batch), batch)


def test_rows_of_unequal_length_are_decoded_from_their_own_ends(layers):
    """Prompts of 3, 12 and 8 slots in chunks of 4, then seven tokens each."""
    lengths, T = (3, 12, 8), 7
    batch = rows([[n + T] for n in lengths])
    expected = full(layers, batch)
    prompts = rows([[n] for n in lengths], T=12)
    prompts.tokens = batch.tokens[:, :12]
    _, cache = read(layers, prompts, [4, 4, 4])
    at = np.arange(3), np.array(lengths)
    for _ in range(T):
        step = {name: jnp.asarray(getattr(batch, name)[at][:, None]) for name in FIELDS}
        hidden, cache = extend(layers, step, cache)
        np.testing.assert_allclose(hidden[:, 0], expected[at], atol=2e-5)
        at = at[0], at[1] + 1
    np.testing.assert_array_equal(cache.past.num_B, np.array(lengths) + T)


@pytest.mark.parametrize("pieces", [[8, 8, 4], [8, *[1] * 12]])
def test_global_layers_may_have_heads_of_another_width_and_number(layers, pieces):
    """With values that are keys before the rotation, experts beside the dense feed-forward, and scaled layers."""
    wide = AttentionConfig(
        num_heads=4, num_kv_heads=1, head_dim=16, rope_fraction=0.25, tied_values=True, value_norm=True
    )
    config = dataclasses.replace(layers, ffn=("dense_moe",), global_attention=wide, layer_scale=True)
    shapes = {leaf.k_BSKh.shape[2:] for leaf in empty_cache(config, 1, 8).layers[1:]}
    assert shapes == {(2, 8), (1, 16)}
    batch = rows([[20], [9, 11]])
    actual, _ = read(config, batch, pieces)
    assert_equal_where_real(actual, full(config, batch), batch)


def test_a_bidirectional_span_inside_a_piece_is_seen_whole(layers):
    batch = rows([[20]])
    batch.span_ids[0, 9:15] = 1
    actual, _ = read(layers, batch, [8, 8, 4])
    assert_equal_where_real(actual, full(layers, batch), batch)


def test_a_row_that_brings_padding_alone_is_left_as_it_was(layers):
    batch = rows([[8], [8]])
    _, before = read(layers, batch, [8])
    _, after = extend(layers, {name: jnp.zeros((2, 1), "int32") for name in FIELDS}, before)
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_a_ring_holds_the_last_slots():
    np.testing.assert_array_equal(held_slots(jnp.array([0, 3, 5, 12]), 5)[0], [-1] * 5)
    np.testing.assert_array_equal(held_slots(jnp.array([3]), 5)[0], [0, 1, 2, -1, -1])
    np.testing.assert_array_equal(held_slots(jnp.array([12]), 5)[0], [10, 11, 7, 8, 9])


def gemma_27b(window):
    attention = {"num_heads": 32, "num_kv_heads": 16, "head_dim": 128}
    return ModelConfig(
        model_dim=5376,
        num_layers=62,
        pattern=("local",) * 5 + ("global",) if window else ("global",),
        ffn=("dense",),
        local_attention=AttentionConfig(**attention, window=window) if window else None,
        global_attention=AttentionConfig(**attention),
        dense={"hidden_dim": 1},
        dtype="bfloat16",
    )


def test_memory_is_the_closed_form():
    """Gemma 3 27B at 128k tokens: 52 local layers of 1,024 slots and 10 global ones, against 62 global layers."""
    slot = 2 * 16 * 128 * 2
    context = 128 * 1024
    assert cache_bytes(gemma_27b(1024), 1, context) == slot * (52 * 1024 + 10 * context)
    assert cache_bytes(gemma_27b(1024), 1, context) / 2**30 == pytest.approx(10.4, abs=0.05)
    assert cache_bytes(gemma_27b(None), 1, context) / 2**30 == pytest.approx(62, abs=0.05)


def test_a_recurrent_layer_keeps_one_state_whatever_the_length(layers):
    assert layers.recurrent is not None
    recurrent = dataclasses.replace(layers, pattern=("recurrent",), local_attention=None, global_attention=None)
    expected = layers.num_layers * 2 * 4 * layers.recurrent.num_states
    assert cache_bytes(recurrent, 1, 10) == cache_bytes(recurrent, 1, 10_000_000) == expected


def test_stacked_and_separate_layers_are_one_model(layers):
    """Two whole repeats and a layer over, so that a wrong index shows."""
    scanned = dataclasses.replace(layers, num_layers=2 * layers.period + 1, scan=True)
    separate = dataclasses.replace(scanned, scan=False)
    graph, params, buffers = split(create(scanned, VOCAB, seed=3))
    other_graph, other_params, other_buffers = split(create(separate, VOCAB, seed=3))
    jax.tree.map(np.testing.assert_array_equal, unstacked(params, scanned), other_params)
    jax.tree.map(np.testing.assert_array_equal, restacked(unstacked(params, scanned), scanned), params)
    jax.tree.map(np.testing.assert_array_equal, unstacked(buffers, scanned), other_buffers)
    batch = rows([[9]])
    np.testing.assert_allclose(
        join(graph, params, buffers)(batch).hidden_BTD,
        join(other_graph, other_params, other_buffers)(batch).hidden_BTD,
        atol=1e-5,
    )
