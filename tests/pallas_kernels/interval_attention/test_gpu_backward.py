"""The Hopper backward kernels compute the gradients of the reference, the same bits every time."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import backend
from pallas_kernels.interval_attention import gpu_backward, gpu_dkv, gpu_dq, gpu_ring, reference, tiles
from tests.pallas_kernels import intervals


@functools.cache
def compiled(scale, softcap):
    """Reference forward, reference backward and the kernels; kept, so that equal shapes compile once."""
    options = {"scale": scale, "softcap": softcap}
    oracle = (functools.partial(f, block=128, **options) for f in (reference.forward, reference.backward))
    return *map(jax.jit, oracle), jax.jit(functools.partial(gpu_backward.backward, **options))


def both(lo_BT, hi_BT, *, S=230, H=2, K=1, h=64, dtype="bfloat16", softcap=None, times=1, detect_races=False):
    """Gradients (d_q, d_k, d_v) by the kernels, once for each time, and by the reference."""
    B, T = lo_BT.shape
    q, k, v, d_out, d_lse = intervals.arrays(B, T, S, H, K, h, dtype)
    forward, backward, kernels = compiled(h**-0.5, softcap)
    args = (q, k, v, lo_BT, hi_BT, *forward(q, k, v, lo_BT, hi_BT), d_out, d_lse)
    with backend.emulate("gpu", detect_races=detect_races):
        runs = [jax.tree.map(np.asarray, kernels(*args)) for _ in range(times)]
    return runs, backward(*args)


def assert_close(actual, expected, tolerance=2e-2):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert a.dtype == e.dtype
        assert np.isfinite(np.asarray(a, np.float32)).all()
        assert intervals.relative_error(a, e) < tolerance


@pytest.mark.parametrize("kind", intervals.KINDS)
def test_gradients_are_those_of_the_reference_for_every_mask(kind):
    """Neither queries nor keys fill their last tile, and there are more keys than queries."""
    (actual,), expected = both(*intervals.batch(kind, 1, 200, 230))
    assert_close(actual, expected)


@pytest.mark.parametrize(
    ("kind", "B", "T", "options", "tolerance"),
    [
        ("packed", 2, 130, {"S": 130, "H": 2, "K": 2, "h": 64, "softcap": 5.0}, 2e-2),
        ("window", 1, 256, {"S": 256, "H": 4, "K": 1, "h": 128}, 2e-2),
        ("mixed", 1, 256, {"S": 256, "H": 2, "K": 1, "h": 256, "softcap": 20.0}, 2e-2),
        ("causal", 1, 128, {"S": 128, "H": 1, "K": 1, "h": 64, "dtype": "float16"}, 4e-3),
    ],
)
def test_gradients_at_every_width_are_free_of_races_and_the_same_bits_each_time(kind, B, T, options, tolerance):
    (one, other), expected = both(*intervals.batch(kind, B, T), **options, times=2, detect_races=True)
    assert_close(one, expected, tolerance)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_without_keys_and_keys_without_rows_have_gradients_of_exactly_zero():
    t = np.arange(200)
    has_keys, seen = t % 3 > 0, 150
    lo_BT, hi_BT = (jnp.asarray(x, jnp.int32)[None] for x in (np.where(has_keys, 0, 7), np.where(has_keys, seen, 7)))
    ((d_q, d_k, d_v),), expected = both(lo_BT, hi_BT)
    assert_close((d_q, d_k, d_v), expected)
    assert not d_q[:, ~has_keys].any()
    for d_keys in (d_k, d_v):
        assert not d_keys[:, seen:].any()


def test_a_batch_without_any_keys_has_no_gradients():
    zeros_BT = jnp.zeros((1, 200), jnp.int32)
    (gradients,), _ = both(zeros_BT, zeros_BT)
    assert not any(x.any() for x in gradients)


@hypothesis.settings(max_examples=5, deadline=None, derandomize=True)
@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_any_intervals_at_all(seed, width):
    """Ends need be neither in order nor inside [0, S]."""
    rng = np.random.default_rng(seed)
    lo_T = rng.integers(-9, 240, 200)
    lo_BT, hi_BT = (jnp.asarray(x, jnp.int32)[None] for x in (lo_T, lo_T + rng.integers(0, width, 200)))
    (actual,), expected = both(lo_BT, hi_BT)
    assert_close(actual, expected)


@pytest.mark.parametrize("kind", intervals.KINDS)
def test_every_tile_is_visited_once_and_those_without_a_mask_come_last(kind):
    ranges = tiles.key_tiles(*intervals.batch(kind, 1, 512), q_tile=128, k_tile=64)
    for tile in range(4):
        visits = gpu_ring.Visits.load(gpu_ring.pack(ranges), 0, tile)
        order = [int(visits.tile(jnp.int32(i))) for i in range(int(visits.num))]
        first, end, inner_first, inner_end = (
            int(x[0, tile]) for x in (ranges.first, ranges.end, ranges.inner_first, ranges.inner_end)
        )
        assert sorted(order) == list(range(first, end))
        assert order[int(visits.num_masked) :] == list(range(inner_first, inner_end))


def test_a_window_costs_as_much_as_its_width_however_long_the_sequence():
    T, window = 131072, 1024
    t = jnp.arange(T, dtype=jnp.int32)[None]
    lo, hi = jnp.maximum(t - window + 1, 0), t + 1
    k_tile = gpu_dq.TILINGS[128].k_tile
    visits = tiles.key_tiles(lo, hi, q_tile=gpu_dq.Q_TILE, k_tile=k_tile)
    assert (visits.end - visits.first).max() * k_tile <= window + gpu_dq.Q_TILE
    tiling = gpu_dkv.TILINGS[128]
    visits = tiles.query_tiles(lo, hi, q_tile=tiling.q_tile, k_tile=tiling.k_tile, num_keys=T)
    assert (visits.end - visits.first).max() * tiling.q_tile <= window + tiling.k_tile + tiling.q_tile


@pytest.mark.parametrize(("h", "softcap"), [(64, 30.0), (128, None), (256, 30.0)])
def test_production_shapes_lower_to_hopper_code(h, softcap):
    """In the simulator operands in registers are replaced; here they are what the device gets."""
    q, kv = (jax.ShapeDtypeStruct((1, 16384, heads, h), jnp.bfloat16) for heads in (16, 8))
    bound = jax.ShapeDtypeStruct((1, 16384), jnp.int32)
    lse = jax.ShapeDtypeStruct((1, 16384, 16), jnp.float32)
    f = jax.jit(functools.partial(gpu_backward.backward, scale=h**-0.5, softcap=softcap))
    exported = jax.export.export(
        f, platforms=["cuda"], disabled_checks=[jax.export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")]
    )
    text = exported(q, kv, kv, bound, bound, q, lse, q, lse).mlir_module()
    assert text.count("custom_call @mosaic_gpu") == 2
