"""The TPU kernels in Mosaic's simulator on a CPU, and their lowering for three generations at full size."""

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from pallas_kernels.grouped_matmul import tpu
from tests.pallas_kernels.grouped_matmul import groups


@pytest.mark.parametrize("name", groups.SIZES)
def test_value_and_gradients_equal_the_reference(name):
    groups.assert_equals_reference(tpu, groups.SIZES[name])


@pytest.mark.slow
@hypothesis.given(cuts=st.lists(st.integers(0, groups.M), min_size=6, max_size=6))
@hypothesis.settings(deadline=None, max_examples=15, derandomize=True)
def test_value_and_gradients_equal_the_reference_for_any_sizes(cuts):
    groups.assert_equals_reference(tpu, np.diff(sorted(cuts), prepend=0).tolist())


def test_several_blocks_along_every_dim(monkeypatch):
    monkeypatch.setattr(tpu, "MAX_BYTES_WIDE", 512)
    groups.assert_equals_reference(tpu, (70, 0, 50), rows=140, D=384, F=256, dtype="float32")


@pytest.mark.parametrize("num_rows", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_fewer_rows_than_a_tile(num_rows):
    groups.assert_equals_reference(tpu, (num_rows // 3, 0, num_rows - num_rows // 3), rows=num_rows)


def test_rows_of_no_group_are_not_read():
    groups.assert_rows_of_no_group_are_not_read(tpu)


def test_results_repeat_bit_for_bit():
    groups.assert_repeats_bit_for_bit(tpu)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("kind", "num_cores"), [("TPU v5p", 2), ("TPU v6 lite", 1), ("TPU7x", 2)])
def test_lowers_for_tpu_at_full_size(kind, num_cores, dtype):
    num_rows, D, F, E = 65536 * 8, 2048, 1024, 64
    x, w, d_y = (jax.ShapeDtypeStruct(s, dtype) for s in ((num_rows, D), (E, D, F), (num_rows, F)))
    sizes = jax.ShapeDtypeStruct((E,), "int32")
    device = AbstractDevice(device_kind=kind, num_cores=num_cores, platform="tpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        for function, operands, kernels in ((tpu.forward, (x, w, sizes), 1), (tpu.backward, (x, w, sizes, d_y), 2)):
            lowered = jax.jit(function).trace(*operands).lower(lowering_platforms=("tpu",))
            assert lowered.as_text().count("tpu_custom_call") == kernels


def test_says_what_it_does_not_support():
    def reason(dtype, D, F):
        return tpu.unsupported(jax.ShapeDtypeStruct((64, D), dtype), jax.ShapeDtypeStruct((2, D, F), dtype))

    assert reason("float32", 128, 256) is None
    assert reason("float16", 128, 256) == "it multiplies bfloat16 and float32, not float16"
    assert reason("bfloat16", 64, 128) == "D and F must be multiples of 128, not 64 and 128"
