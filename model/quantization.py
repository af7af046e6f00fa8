"""Weights of matmuls in few bits: which dims share a scale, the numbers that can be stored, and training through them.

A weight is about scale * q: q a whole number in -127 .. 127 (int8) or -7 .. 7 (int4), or an 8-bit float of four
exponent and three mantissa bits (fp8). A matrix is laid out as rows, one for each output channel, of the I inputs that
a matmul sums over. `block` inputs next to each other share a scale, in bfloat16; with block 0 the whole row does. q is
the nearest one after the scale was rounded, so what training saw is what an export stores, bit by bit. Everything else
stays as it is: norms, biases, routers, embeddings that are only looked up.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

# The dims of a parameter that a matmul sums over, by its name and number of dims.
_CONTRACTED: dict[tuple[str, int], tuple[int, ...]] = {
    **{(name, 3): (0,) for name in ("query", "key", "value", "modulation")},
    **{(name, 2): (0,) for name in ("query", "key", "value", "out", "gate", "up", "down", "latent", "projector")},
    **{(name, 2): (0,) for name in ("input_re", "input_im", "output_re", "output_im")},
    **{(name, 2): (0,) for name in ("conv", "residual_in", "residual_out")},
    **{("out", 3): (0, 1), ("patch", 3): (0, 1), ("kernel", 4): (0,)},
    **{("gate_up", 3): (1,), ("down", 3): (1,), ("kernel", 3): (1,), ("table", 2): (1,)},
}
_BY_PATH = {"flow/out": (1,), "local_decoder/out": (1,)}  # one matrix for each embodiment
_ENCODER = "image/encoder/blocks/"  # its layers are stacked
_BY_PATH |= {f"{_ENCODER}{name}/kernel": (1,) for name in ("query", "key", "value", "up", "down")}
_BY_PATH |= {f"{_ENCODER}out/kernel": (1, 2), "image/encoder/patch/kernel": (0,)}


@dataclasses.dataclass(frozen=True)
class Quantization:
    """kind of q; block: inputs that share a scale, 0 for all of a channel's."""

    kind: Literal["int8", "int4", "fp8"]
    block: int = 0

    def __post_init__(self):
        if self.kind not in ("int8", "int4", "fp8"):
            raise ValueError(f"kind is {self.kind!r}; allowed: int8, int4, fp8")
        if self.block < 0 or self.block % 2:
            raise ValueError(f"block is {self.block}; allowed: 0 (a whole channel) or a positive even number")

    @property
    def largest(self) -> int:
        return {"int8": 127, "int4": 7, "fp8": 448}[self.kind]

    @property
    def dtype(self) -> np.dtype:
        """Of q."""
        return np.dtype({"int8": np.int8, "int4": ml_dtypes.int4, "fp8": ml_dtypes.float8_e4m3fn}[self.kind])

    def num_blocks(self, inputs: int) -> int:
        """Scales of a row."""
        return -(-inputs // self.block) if self.block else 1


def contracted_dims(path: str, num_dims: int, tied_head: bool) -> tuple[int, ...] | None:
    """The dims that matmuls with this parameter sum over; None for one that is no matmul's weight."""
    if path == "tokens/table" and not tied_head:
        return None
    return _BY_PATH.get(path) or _CONTRACTED.get((path.rpartition("/")[2], num_dims))


def as_rows(array: Any, contracted: Sequence[int]) -> Any:
    """[R,I]: R output channels, each with its I inputs next to each other."""
    kept = [i for i in range(array.ndim) if i not in contracted]
    inputs = math.prod(array.shape[i] for i in contracted)
    return array.transpose((*kept, *contracted)).reshape(-1, inputs)


def from_rows(rows_RI: Any, dims: Sequence[int], contracted: Sequence[int]) -> Any:
    """The inverse of `as_rows` for an array of shape `dims`."""
    order = [*(i for i in range(len(dims)) if i not in contracted), *contracted]
    inverse = [order.index(i) for i in range(len(dims))]
    return rows_RI.reshape([dims[i] for i in order]).transpose(inverse)


def scaled_blocks(rows_RI: Any, form: Quantization, xp: Any = np) -> tuple[Any, Any]:
    """Weights over their scales [R,N,block], the last block filled up with zeros, and the scales bfloat16[R,N].

    xp: numpy or jax.numpy, which give the same bits. A block of zeros has scale 0 and stays zeros.
    """
    num_rows, inputs = rows_RI.shape
    blocks = form.num_blocks(inputs)
    more = blocks * (form.block or inputs) - inputs
    blocks_RNb = xp.pad(rows_RI, ((0, 0), (0, more))).reshape(num_rows, blocks, -1)
    scales_RN = (xp.abs(blocks_RNb).max(-1) / np.float32(form.largest)).astype(ml_dtypes.bfloat16)
    divisor = scales_RN.astype(np.float32)[..., None]
    return xp.where(divisor > 0, blocks_RNb / xp.where(divisor > 0, divisor, 1), 0), scales_RN


def rounded(array: jax.Array, contracted: Sequence[int], form: Quantization) -> jax.Array:
    """The weights that `form` can store, float32 of the same shape; gradients pass as if nothing had been rounded.

    The straight-through estimator of quantisation-aware training (arXiv 1712.05877, section 3).
    """
    import qwix  # an extra: only those who quantise need it

    rows_RI = as_rows(array.astype(jnp.float32), contracted)
    scaled_RNb, scales_RN = scaled_blocks(rows_RI, form, jnp)
    bound = form.largest + (0.5 if form.kind != "fp8" else 0)  # with it the library's own scale is 1
    q_RNb = qwix.dequantize(qwix.quantize(scaled_RNb, form.dtype, calibration_method=f"fixed,{-bound},{bound}"))
    stored_RI = (q_RNb * scales_RN.astype(jnp.float32)[..., None]).reshape(len(rows_RI), -1)[:, : rows_RI.shape[1]]
    stored = jax.lax.stop_gradient(from_rows(stored_RI, array.shape, contracted))
    return stored + (array - jax.lax.stop_gradient(array))


def rounded_weights(
    params: Any, axes: Mapping[str, Sequence[str | None]], form: Quantization, *, tied_head: bool
) -> Any:
    """Parameters with every matmul's weight `rounded`; `axes` by name tell which are stacked layer by layer."""

    def round_one(path: Any, weight: jax.Array) -> jax.Array:
        name = "/".join(str(key.key) for key in path)
        stacked = axes[name][0] == "layers" and name.startswith("stack/")
        contracted = contracted_dims(name, weight.ndim - stacked, tied_head)
        if contracted is None:
            return weight
        one = lambda layer: rounded(layer, contracted, form)  # noqa: E731
        return jax.vmap(one)(weight) if stacked else one(weight)

    return jax.tree_util.tree_map_with_path(round_one, params)
