import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import backend
from pallas_kernels.decode_attention import decode_attention, tpu
from tests.pallas_kernels.decode_attention.test_op import assert_close, newest, step


def emulated(*arguments, **options):
    with backend.emulate("tpu", detect_races=True):
        attend = jax.jit(functools.partial(decode_attention, scale=0.1, backend="tpu", **options))
        return jax.block_until_ready(attend(*arguments))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize(
    ("shape", "window", "softcap"),
    [
        (([100, 300], 128, 1, 2, 2, 128), 100, None),  # one ring not full, one that wrapped
        (([200], 128, 3, 8, 1, 128), 90, 5.0),  # 24 rows fill up to 32
        (([250], 128, 1, 8, 4, 256), 77, None),
    ],
)
def test_the_kernel_agrees_with_the_reference_and_has_no_races(shape, window, softcap, dtype, tolerance):
    arguments = step(*shape, dtype=dtype, window=window)
    expected = decode_attention(*arguments, scale=0.1, softcap=softcap, backend="reference")
    assert_close(emulated(*arguments, softcap=softcap), expected, tolerance)


def test_several_tiles_give_what_one_gives(monkeypatch):
    """Of three tiles, the windows of 50 want the first two, the last, and the first."""
    arguments = step([900, 384, 100], 384, 1, 2, 1, 128, window=50)
    expected = decode_attention(*arguments, scale=0.1, backend="reference")
    monkeypatch.setattr(tpu, "_slots_per_tile", lambda *_: 128)
    assert_close(emulated(*arguments), expected)


def test_rows_without_keys_and_an_empty_cache_are_zero():
    q, k, v, position, lo, hi = step([300, 300], 128, 2, 2, 1, 128)
    out, lse = emulated(q, k, v, position.at[1].set(-1), lo, hi.at[0, 0].set(0))
    for b, t in ((0, 0), (1, 0), (1, 1)):
        assert not out[b, t].any()
        np.testing.assert_array_equal(lse[b, t], np.float32(-1e30))
    assert np.isfinite(out).all()
    assert out[0, 1].any()


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((100, 1, 2, 1, 128), "bfloat16", "the cache has 100 slots, not a multiple of 128"),
        ((128, 1, 2, 1, 64), "bfloat16", "the cache has 1 heads of width 64; only a width that 128 divides"),
        ((128, 1, 3, 3, 128), "bfloat16", "a number of heads that divides 128 can be read in place"),
        ((128, 1, 2, 1, 128), "float16", "the kernel wants both bfloat16 or both float32"),
        ((128, 9, 32, 1, 128), "bfloat16", "9 queries of 32 heads make 288 rows, more than 256"),
    ],
)
def test_what_the_kernel_cannot_do_is_refused_with_the_reason(shape, dtype, reason):
    S, T, H, K, h = shape
    with pytest.raises(ValueError, match=reason):
        emulated(*step([S], S, T, H, K, h, dtype=dtype))


@pytest.mark.parametrize("kind", ["TPU v5p", "TPU v6 lite", "TPU7x"])
@pytest.mark.parametrize(
    ("T", "H", "K", "h", "dtype"),
    [(1, 16, 8, 128, "bfloat16"), (4, 64, 8, 128, "bfloat16"), (4, 16, 1, 256, "bfloat16"), (1, 16, 8, 128, "float32")],
)
def test_production_shapes_lower_for_tpus(kind, T, H, K, h, dtype):
    B, S = 64, 32768
    kv = jax.ShapeDtypeStruct((B, S, K, h), jnp.dtype(dtype))
    q, position = jax.ShapeDtypeStruct((B, T, H, h), kv.dtype), jax.ShapeDtypeStruct((B, S), jnp.int32)
    device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=1, platform="tpu")
    attend = functools.partial(decode_attention, scale=h**-0.5, backend="tpu")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
        traced = jax.jit(attend).trace(q, kv, kv, position, *newest([S] * B, T))
        assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()
