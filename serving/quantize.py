"""Weights of matmuls in few bits as an export stores them (see `model.quantization`), R rows of I inputs:

int8: int8[R,I].  fp8: float8_e4m3fn[R,I].
int4: uint8[R,ceil(I/2)], the even input in the low half of a byte, each half in two's complement.
scales: bfloat16[R,ceil(I/block)].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.quantization import Quantization, as_rows, from_rows, scaled_blocks


def stored_shapes(
    form: Quantization, dims: Sequence[int], contracted: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of the values and of the scales."""
    inputs = math.prod(dims[i] for i in contracted)
    rows = math.prod(dims) // inputs
    return (rows, -(-inputs // 2) if form.kind == "int4" else inputs), (rows, form.num_blocks(inputs))


def stored_dtype(form: Quantization) -> np.dtype:
    return np.dtype(np.uint8) if form.kind == "int4" else form.dtype


def num_bytes(form: Quantization, dims: Sequence[int], contracted: Sequence[int]) -> int:
    """R I or R ceil(I/2) for the values, and 2 R ceil(I/block) for the scales."""
    values, scales = stored_shapes(form, dims, contracted)
    return math.prod(values) + 2 * math.prod(scales)


def quantize(array: np.ndarray, contracted: Sequence[int], form: Quantization) -> tuple[np.ndarray, np.ndarray]:
    """Values and scales as they are stored.

    Raises:
        ValueError: a weight that is not finite.
    """
    rows_RI = as_rows(array.astype(np.float32), contracted)
    if not np.isfinite(rows_RI).all():
        raise ValueError("weights that are not finite have no scale; the checkpoint is broken, take an earlier one")
    scaled_RNb, scales_RN = scaled_blocks(rows_RI, form)
    q_RI = np.clip(scaled_RNb, -form.largest, form.largest).reshape(len(rows_RI), -1)[:, : rows_RI.shape[1]]
    if form.kind == "fp8":
        return q_RI.astype(form.dtype), scales_RN
    q_RI = np.rint(q_RI).astype(np.int8)
    return (q_RI if form.kind == "int8" else _packed(q_RI)), scales_RN


def dequantize(
    values: Any, scales: Any, dims: Sequence[int], contracted: Sequence[int], form: Quantization, xp: Any = np
) -> Any:
    """float32 array of shape `dims`. `xp`: numpy or jax.numpy, which give the same bits."""
    inputs = math.prod(dims[i] for i in contracted)
    q_RI = _unpacked(values, xp)[:, :inputs] if form.kind == "int4" else values
    scales_RI = xp.repeat(scales.astype(np.float32), form.block or inputs, axis=1)[:, :inputs]
    return from_rows(q_RI.astype(np.float32) * scales_RI, dims, contracted)


def _packed(q_RI: np.ndarray) -> np.ndarray:
    even = np.pad(q_RI, ((0, 0), (0, q_RI.shape[1] % 2))).view(np.uint8) & 15
    return even[:, 0::2] | even[:, 1::2] << 4


def _unpacked(bytes_RJ: Any, xp: Any) -> Any:
    halves_RJ2 = xp.stack([bytes_RJ & 15, bytes_RJ >> 4], axis=-1).astype(np.int8)
    return ((halves_RJ2 ^ 8) - 8).reshape(bytes_RJ.shape[0], -1)
