import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import backend
from pallas_kernels.decode_attention import decode_attention, gpu
from tests.pallas_kernels.decode_attention.test_op import assert_close, newest, step


def emulated(*arguments, **options):
    with backend.emulate("gpu", detect_races=True):
        attend = jax.jit(functools.partial(decode_attention, scale=0.1, backend="gpu", **options))
        return jax.block_until_ready(attend(*arguments))


@pytest.mark.parametrize(
    ("shape", "window", "softcap"),
    [
        (([100, 300], 128, 1, 4, 4, 64), 100, None),  # every head its own key; one ring not full, one that wrapped
        (([200], 128, 1, 4, 2, 128), 120, None),
        (([700], 256, 3, 4, 1, 64), 90, None),  # 12 rows fill up to 16
        (([130], 128, 1, 8, 1, 128), 300, 5.0),
        (([250], 128, 2, 2, 1, 256), 77, None),
        (([128], 128, 8, 8, 1, 64), 60, None),  # as many rows as there may be
    ],
)
def test_the_kernel_agrees_with_the_reference_and_has_no_races(shape, window, softcap):
    arguments = step(*shape, dtype="bfloat16", window=window)
    expected = decode_attention(*arguments, scale=0.1, softcap=softcap, backend="reference")
    assert_close(emulated(*arguments, softcap=softcap), expected, 2e-2)


def test_any_number_of_splits_gives_the_same(monkeypatch):
    """Of four tiles, the windows of 100 want all, the last two and, less than there are splits, the first."""
    arguments = step([300, 250, 3], 256, 1, 2, 1, 128, dtype="bfloat16", window=100)
    expected = decode_attention(*arguments, scale=0.1, backend="reference")
    for splits in (1, 3):
        monkeypatch.setattr(gpu, "num_splits", lambda *_, splits=splits: splits)
        assert_close(emulated(*arguments), expected, 2e-2)


def test_rows_without_keys_and_an_empty_cache_are_zero():
    q, k, v, position, lo, hi = step([300, 300], 128, 2, 2, 1, 64, dtype="bfloat16")
    out, lse = emulated(q, k, v, position.at[1].set(-1), lo, hi.at[0, 0].set(0))
    for b, t in ((0, 0), (1, 0), (1, 1)):
        assert not out[b, t].any()
        np.testing.assert_array_equal(lse[b, t], np.float32(-1e30))
    assert np.isfinite(np.asarray(out, np.float32)).all()
    assert out[0, 1].any()


@pytest.mark.parametrize("blocks_per_sm", [1, 2])
@pytest.mark.parametrize("slots", [128, 1024, 32768, 131072])
@pytest.mark.parametrize("heads", [1, 8, 64, 100, 512])
def test_splits_fill_the_device_with_parts_of_512_to_8192_slots(heads, slots, blocks_per_sm):
    splits = gpu.num_splits(heads, slots, blocks_per_sm)
    assert splits == 1 or slots / splits >= 512
    assert slots / splits <= 8192
    waves = heads * splits / (132 * blocks_per_sm)
    assert waves / np.ceil(waves) > 0.9 or slots / (splits + 1) < 512 or waves < 1


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((1, 100, 1, 2, 1, 64), "bfloat16", "the cache has 100 slots, not a multiple of 128"),
        ((1, 128, 1, 2, 1, 96), "bfloat16", "head width 96 is not one of 64, 128, 256"),
        ((1, 128, 1, 2, 1, 64), "float32", "tensor cores want both bfloat16 or both float16"),
        ((1, 128, 9, 8, 1, 64), "bfloat16", "9 queries of 8 heads that share a key make 72 rows, more than 64"),
        ((1, 128, 5, 8, 1, 256), "bfloat16", "make 40 rows, more than 32"),
    ],
)
def test_what_the_kernel_cannot_do_is_refused_with_the_reason(shape, dtype, reason):
    B, S, T, H, K, h = shape
    arguments = step([S] * B, S, T, H, K, h, dtype=dtype)
    with pytest.raises(ValueError, match=reason):
        emulated(*arguments)


@pytest.mark.parametrize(
    ("T", "H", "h"), [(1, 16, 128), (4, 16, 128), (8, 64, 128), (1, 16, 64), (8, 64, 64), (4, 64, 256)]
)
def test_production_shapes_lower_for_hopper(T, H, h):
    B, S, K = 64, 32768, 8
    kv = jax.ShapeDtypeStruct((B, S, K, h), jnp.bfloat16)
    q, position = jax.ShapeDtypeStruct((B, T, H, h), jnp.bfloat16), jax.ShapeDtypeStruct((B, S), jnp.int32)
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="cuda")
    attend = functools.partial(decode_attention, scale=h**-0.5, backend="gpu")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
        traced = jax.jit(attend).trace(q, kv, kv, position, *newest([S] * B, T))
        assert "mosaic_gpu" in traced.lower(lowering_platforms=("cuda",)).as_text()
