"""The Hopper kernels in Mosaic GPU's simulator on a CPU, and their lowering at the size they are written for."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import backend
from pallas_kernels.grouped_matmul import gpu
from tests.pallas_kernels.grouped_matmul import groups


@pytest.mark.parametrize("name", groups.SIZES)
def test_value_and_gradients_equal_the_reference(name):
    groups.assert_equals_reference(gpu, groups.SIZES[name])


@pytest.mark.slow
@hypothesis.given(cuts=st.lists(st.integers(0, groups.M), min_size=6, max_size=6))
@hypothesis.settings(deadline=None, max_examples=10, derandomize=True)
def test_value_and_gradients_equal_the_reference_for_any_sizes(cuts):
    groups.assert_equals_reference(gpu, np.diff(sorted(cuts), prepend=0).tolist())


def test_steps_go_round_the_ring_and_columns_fill_several_tiles():
    """Six steps for four stages; widths of 256 and of 128 columns; rows that do not come in eights."""
    groups.assert_equals_reference(gpu, (70, 0, 58), rows=131, D=384, F=256)


def test_more_tiles_of_columns_than_in_a_band():
    x, w, _ = groups.arrays(136, 128, 9 * 128, 2, "bfloat16")
    with backend.emulate("gpu"):
        y = gpu.forward(x, w, jnp.asarray([5, 131], jnp.int32))
    expected = np.concatenate([x[:5].astype("float32") @ w[0], x[5:].astype("float32") @ w[1]])
    np.testing.assert_allclose(y.astype("float32"), expected, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("num_rows", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_fewer_rows_than_a_tile(num_rows):
    groups.assert_equals_reference(gpu, (num_rows // 3, 0, num_rows - num_rows // 3), rows=num_rows)


@pytest.mark.slow
def test_float16():
    groups.assert_equals_reference(gpu, groups.SIZES["several groups in a tile"], dtype="float16")


def test_rows_of_no_group_are_not_read():
    groups.assert_rows_of_no_group_are_not_read(gpu)


def test_results_repeat_bit_for_bit():
    groups.assert_repeats_bit_for_bit(gpu)


@pytest.mark.parametrize(("D", "F"), [(2048, 1024), (1024, 2048), (896, 1408)])
def test_lowers_for_hopper_at_full_size(D, F):
    num_rows, E = 65536 * 8, 64
    x, w, d_y = (jax.ShapeDtypeStruct(s, "bfloat16") for s in ((num_rows, D), (E, D, F), (num_rows, F)))
    sizes = jax.ShapeDtypeStruct((E,), "int32")
    for function, operands, kernels in ((gpu.forward, (x, w, sizes), 1), (gpu.backward, (x, w, sizes, d_y), 2)):
        lowered = jax.jit(function).trace(*operands).lower(lowering_platforms=("cuda",))
        assert lowered.as_text().count("mosaic_gpu_v2") == kernels


def test_says_what_it_does_not_support():
    def reason(dtype, D, F):
        return gpu.unsupported(jax.ShapeDtypeStruct((64, D), dtype), jax.ShapeDtypeStruct((2, D, F), dtype))

    assert reason("bfloat16", 128, 256) is None
    assert reason("float32", 128, 256) == "it multiplies bfloat16 and float16, not float32"
    assert reason("float16", 128, 96) == "D and F must be multiples of 128, not 128 and 96"
