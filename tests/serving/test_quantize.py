"""Weights in few bits: what is stored is what the closed form says, and no weight moves by more than half a step."""

import math

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from model.quantization import Quantization, contracted_dims
from serving.quantize import dequantize, num_bytes, quantize, stored_shapes

FORMS = [
    Quantization("fp8"),
    Quantization("fp8", 4),
    Quantization("int8"),
    Quantization("int8", 32),
    Quantization("int4"),
    Quantization("int4", 6),
]
# Dims and those that a matmul sums over: heads, experts, a row of odd length, one channel.
SHAPES = [((16, 2, 8), (0,)), ((2, 8, 16), (0, 1)), ((3, 10, 12), (1,)), ((5, 7), (0,)), ((64, 1), (0,))]


def random(dims, seed=0):
    """Channels of very different sizes, one of them all zeros."""
    rng = np.random.default_rng(seed)
    array = rng.normal(size=dims).astype(np.float32) * 10 ** rng.uniform(-3, 2, dims[-1:]).astype(np.float32)
    array[..., -1] = 0
    return array


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.kind}-{form.block}")
@pytest.mark.parametrize(("dims", "contracted"), SHAPES, ids=str)
def test_no_weight_is_off_by_more_than_half_a_step(form, dims, contracted):
    """Of fp8, with three bits of mantissa, a step is an eighth of the power of two below, and 2^-9 near zero."""
    array = random(dims)
    values, scales = quantize(array, contracted, form)
    again = dequantize(values, scales, dims, contracted, form)
    steps = dequantize(*_ones(values, scales, form), dims, contracted, form)  # the scales
    if form.kind == "fp8":
        size = np.abs(np.divide(array, steps, out=np.zeros_like(array), where=steps > 0))
        steps = steps * np.maximum(2.0 ** (np.floor(np.log2(np.maximum(size, 2.0**-6))) - 3), 2.0**-9)
    assert (np.abs(again - array) <= steps * 0.5 * (1 + 1e-5)).all()
    np.testing.assert_array_equal(again, dequantize(jnp.array(values), jnp.array(scales), dims, contracted, form, jnp))


def _ones(values, scales, form):
    """The same scales with every q = 1."""
    return np.full_like(values, 0x11 if form.kind == "int4" else 1), scales


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.kind}-{form.block}")
@pytest.mark.parametrize(("dims", "contracted"), SHAPES, ids=str)
def test_sizes_are_the_closed_form(form, dims, contracted):
    values, scales = quantize(random(dims), contracted, form)
    inputs = math.prod(dims[i] for i in contracted)
    rows, blocks = math.prod(dims) // inputs, math.ceil(inputs / (form.block or inputs))
    bits = 4 if form.kind == "int4" else 8
    assert num_bytes(form, dims, contracted) == values.nbytes + scales.nbytes
    assert values.nbytes + scales.nbytes == rows * math.ceil(inputs * bits / 8) + 2 * rows * blocks
    assert (values.shape, scales.shape) == stored_shapes(form, dims, contracted)
    assert scales.dtype == ml_dtypes.bfloat16


def test_four_bits_lie_two_in_a_byte_the_even_input_low():
    values, scales = quantize(np.array([[7.0], [-7.0], [3.0]], np.float32), (0,), Quantization("int4"))
    assert values.tolist() == [[7 | (16 - 7) << 4, 3]]
    assert scales.astype(np.float32).tolist() == [[1.0]]


def test_a_block_has_a_scale_of_its_own():
    column = np.array([[127.0], [-1.0], [0.5], [1.0]], np.float32)
    values, scales = quantize(column, (0,), Quantization("int8", 2))
    assert values.tolist() == [[127, -1, 64, 127]]
    np.testing.assert_allclose(scales.astype(np.float32), [[1.0, 1 / 127]], rtol=4e-3)


def test_only_weights_of_matmuls_are_quantised():
    assert contracted_dims("stack/remainder/0/mixer/out", 3, True) == (0, 1)
    assert contracted_dims("stack/remainder/0/mixer/out", 2, True) == (0,)  # of a recurrent layer
    assert contracted_dims("flow/out", 3, True) == (1,)
    assert contracted_dims("image/encoder/blocks/query/kernel", 4, True) == (1,)  # layers are stacked in the first dim
    assert contracted_dims("image/encoder/blocks/out/kernel", 4, True) == (1, 2)
    assert contracted_dims("tokens/table", 2, True) == (1,)
    for path, dims in (("tokens/table", 2), ("norm/scale", 1), ("stack/remainder/0/ffn/router", 2), ("image/row", 3)):
        assert contracted_dims(path, dims, False) is None


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="weights that are not finite have no scale"):
        quantize(np.array([[np.nan, 1.0]], np.float32), (1,), FORMS[0])
