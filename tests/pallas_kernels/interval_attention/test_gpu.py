"""The Hopper kernels of interval attention, simulated on the CPU and lowered for the GPU."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from pallas_kernels import backend
from pallas_kernels.interval_attention import gpu, reference
from tests.pallas_kernels import intervals

H200 = AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="cuda")

SCALE = 64**-0.5

forward = jax.jit(gpu.forward, static_argnames=("scale", "softcap"))


def simulate(q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, *, scale, softcap=None):
    with backend.emulate("gpu", detect_races=True):
        return jax.block_until_ready(forward(q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, scale=scale, softcap=softcap))


@functools.partial(jax.jit, static_argnames=("scale", "softcap"))
def exact(q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, *, scale, softcap=None):
    """The oracle in float32 on the same inputs."""
    q_BTHh, k_BSKh, v_BSKh = (x.astype(jnp.float32) for x in (q_BTHh, k_BSKh, v_BSKh))
    return reference.forward(q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, scale=scale, softcap=softcap, block=128)


def check(q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, **options):
    """Weights are rounded to 16 bits before they meet the values, the logsumexp is float32 throughout."""
    args = (q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT)
    (out_BTHh, lse_BTH), (expected_BTHh, expected_lse_BTH) = simulate(*args, **options), exact(*args, **options)
    assert (out_BTHh.dtype, lse_BTH.dtype) == (q_BTHh.dtype, jnp.float32)
    assert intervals.relative_error(out_BTHh, expected_BTHh) < 5e-3
    np.testing.assert_allclose(lse_BTH, expected_lse_BTH, atol=1e-5, rtol=1e-6)
    empty_BT = lo_BT >= hi_BT
    assert (np.asarray(out_BTHh, np.float32)[empty_BT] == 0).all()
    assert (np.asarray(lse_BTH)[empty_BT] == reference.EMPTY_LSE).all()


def small(T=256, S=256):
    """One shape for many tests, which then share what was compiled."""
    return intervals.arrays(1, T, S, 1, 1, 64, "bfloat16")[:3]


@pytest.mark.parametrize("kind", intervals.KINDS)
def test_forward_of_every_kind_of_mask(kind):
    T, S = (192, 320) if kind == "offset" else (256, 256)
    check(*small(T, S), *intervals.batch(kind, 1, T, S), scale=SCALE)


@pytest.mark.parametrize(
    ("B", "T", "S", "H", "K", "h", "dtype", "scale", "softcap"),
    [
        (1, 128, 384, 4, 2, 64, "float16", 0.0, None),
        (2, 100, 100, 2, 2, 128, "bfloat16", -0.1, None),
        (1, 130, 200, 4, 1, 128, "bfloat16", 0.1, 2.0),
        (1, 128, 300, 2, 1, 256, "bfloat16", 0.06, None),
    ],
)
def test_forward_of_heads_widths_and_lengths_that_fill_no_tile(B, T, S, H, K, h, dtype, scale, softcap):
    q, k, v, _, _ = intervals.arrays(B, T, S, H, K, h, dtype)
    kind = "offset" if S > T else "mixed"
    check(q, k, v, *intervals.batch(kind, B, T, S), scale=scale, softcap=softcap)


def test_forward_where_no_row_has_a_key():
    nothing = jnp.full((1, 256), 7, jnp.int32)
    check(*small(), nothing, nothing, scale=SCALE)


def test_forward_of_scores_so_large_that_only_the_running_maximum_saves_them():
    q, k, v = small()
    check(100 * q, k, v, *intervals.batch("causal", 1, 256), scale=SCALE)


rows = st.lists(st.integers(-10, 270), min_size=256, max_size=256)


@hypothesis.settings(deadline=None, max_examples=10)
@hypothesis.given(lo=rows.map(sorted), hi=rows.map(sorted))
def test_forward_of_intervals_that_move_forward_at_random(lo, hi):
    """Some rows without keys, ends outside the keys, tiles that only some rows need."""
    check(*small(), *(jnp.asarray([x], jnp.int32) for x in (lo, hi)), scale=SCALE)


@pytest.mark.parametrize(
    ("h", "dtype", "problem"),
    [
        (64, "bfloat16", None),
        (256, "float16", None),
        (80, "bfloat16", "head width 80 is not one of 64, 128, 256"),
        (128, "float32", "q is float32 and k float32; the tensor cores want both bfloat16 or both float16"),
    ],
)
def test_what_the_kernels_cannot_serve_is_said_in_words(h, dtype, problem):
    q, k = (jax.ShapeDtypeStruct((1, 128, heads, h), dtype) for heads in (4, 2))
    assert gpu.unsupported(q, k, softcap=None) == problem


@pytest.mark.parametrize(("h", "softcap"), [(64, None), (128, None), (256, 50.0)])
def test_forward_lowers_for_a_gpu_at_production_size(h, softcap):
    q, k = (jax.ShapeDtypeStruct((1, 16384, heads, h), "bfloat16") for heads in (16, 8))
    bound = jax.ShapeDtypeStruct((1, 16384), "int32")
    call = jax.jit(functools.partial(gpu.forward, scale=h**-0.5, softcap=softcap))
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=H200)):
        text = call.trace(q, k, k, bound, bound).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("mosaic_gpu") >= 1
