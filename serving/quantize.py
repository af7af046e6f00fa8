"""Weights of matmuls in 8 or 4 bits, symmetric: w is about scale * q with q in -127 .. 127 or -7 .. 7.

A matrix is laid out as rows, one for each output channel, of the I inputs that a matmul sums over. `block` inputs next
to each other share a scale, in bfloat16; with block 0 the whole row does. Rounding is to the nearest q after the scale
was rounded, so no weight is off by more than half its scale. Formats as stored, R rows:

    int8: int8[R,I].  int4: uint8[R,ceil(I/2)], the even input in the low half of a byte, each half in two's complement.
    scales: bfloat16[R,ceil(I/block)].

Everything else stays as it is: norms, biases, routers, embeddings that are only looked up.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

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
_BY_PATH = {"flow/out": (1,)}  # one matrix for each embodiment
_ENCODER = "image/encoder/blocks/"  # its layers are stacked
_BY_PATH |= {f"{_ENCODER}{name}/kernel": (1,) for name in ("query", "key", "value", "up", "down")}
_BY_PATH |= {f"{_ENCODER}out/kernel": (1, 2), "image/encoder/patch/kernel": (0,)}


@dataclasses.dataclass(frozen=True)
class Quantization:
    """bits of a weight; block: inputs that share a scale, 0 for all of a channel's."""

    kind: Literal["int8", "int4"]
    block: int = 0

    def __post_init__(self):
        if self.kind not in ("int8", "int4"):
            raise ValueError(f"quantize is {self.kind!r}; allowed: int8, int4")
        if self.block < 0 or self.block % 2:
            raise ValueError(f"block is {self.block}; allowed: 0 (a whole channel) or a positive even number")

    @property
    def largest(self) -> int:
        return 127 if self.kind == "int8" else 7

    def shapes(self, dims: Sequence[int], contracted: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of the values and of the scales."""
        inputs = math.prod(dims[i] for i in contracted)
        rows = math.prod(dims) // inputs
        blocks = -(-inputs // self.block) if self.block else 1
        return (rows, inputs if self.kind == "int8" else -(-inputs // 2)), (rows, blocks)

    @property
    def dtype(self) -> np.dtype:
        """Of the values as stored."""
        return np.dtype(np.int8 if self.kind == "int8" else np.uint8)

    def num_bytes(self, dims: Sequence[int], contracted: Sequence[int]) -> int:
        """R I or R ceil(I/2) for the values, and 2 R ceil(I/block) for the scales."""
        values, scales = self.shapes(dims, contracted)
        return math.prod(values) + 2 * math.prod(scales)


def contracted_dims(path: str, num_dims: int, tied_head: bool) -> tuple[int, ...] | None:
    """The dims that matmuls with this parameter sum over; None for one that is no matmul's weight."""
    if path == "tokens/table" and not tied_head:
        return None
    return _BY_PATH.get(path) or _CONTRACTED.get((path.rpartition("/")[2], num_dims))


def quantize(array: np.ndarray, contracted: Sequence[int], form: Quantization) -> tuple[np.ndarray, np.ndarray]:
    """Values and scales as they are stored.

    Raises:
        ValueError: a weight that is not finite.
    """
    rows_RI = _as_rows(array.astype(np.float32), contracted)
    if not np.isfinite(rows_RI).all():
        raise ValueError("weights that are not finite have no scale; the checkpoint is broken, take an earlier one")
    _, (num_rows, blocks) = form.shapes(array.shape, contracted)
    inputs = rows_RI.shape[1]
    block = form.block or inputs
    padded = _padded(rows_RI, blocks * block - inputs).reshape(num_rows, blocks, block)
    scales_RN = (np.abs(padded).max(-1) / form.largest).astype(ml_dtypes.bfloat16)
    divisor = scales_RN.astype(np.float32)[..., None]
    scaled = np.divide(padded, divisor, out=np.zeros_like(padded), where=divisor > 0)
    q_RI = np.clip(np.rint(scaled), -form.largest, form.largest).astype(np.int8).reshape(num_rows, -1)[:, :inputs]
    return (q_RI if form.kind == "int8" else _packed(q_RI)), scales_RN


def dequantize(
    values: Any, scales: Any, dims: Sequence[int], contracted: Sequence[int], form: Quantization, xp: Any = np
) -> Any:
    """float32 array of shape `dims`. `xp`: numpy or jax.numpy, which give the same bits."""
    inputs = math.prod(dims[i] for i in contracted)
    q_RI = values if form.kind == "int8" else _unpacked(values, xp)[:, :inputs]
    scales_RI = xp.repeat(scales.astype(np.float32), form.block or inputs, axis=1)[:, :inputs]
    rows_RI = q_RI.astype(np.float32) * scales_RI
    kept = [i for i in range(len(dims)) if i not in contracted]
    order = [*kept, *contracted]
    inverse = [order.index(i) for i in range(len(dims))]
    return xp.transpose(rows_RI.reshape([dims[i] for i in order]), inverse)


def _as_rows(array: np.ndarray, contracted: Sequence[int]) -> np.ndarray:
    kept = [i for i in range(array.ndim) if i not in contracted]
    inputs = math.prod(array.shape[i] for i in contracted)
    return np.transpose(array, (*kept, *contracted)).reshape(-1, inputs)


def _padded(rows_RI: np.ndarray, more: int) -> np.ndarray:
    """Zeros after the inputs of every row."""
    zeros = np.zeros((len(rows_RI), more), rows_RI.dtype)
    return np.concatenate([rows_RI, zeros], axis=1)


def _packed(q_RI: np.ndarray) -> np.ndarray:
    even = _padded(q_RI, q_RI.shape[1] % 2).view(np.uint8) & 15
    return even[:, 0::2] | even[:, 1::2] << 4


def _unpacked(bytes_RJ: Any, xp: Any) -> Any:
    halves_RJ2 = xp.stack([bytes_RJ & 15, bytes_RJ >> 4], axis=-1).astype(np.int8)
    return ((halves_RJ2 ^ 8) - 8).reshape(bytes_RJ.shape[0], -1)
