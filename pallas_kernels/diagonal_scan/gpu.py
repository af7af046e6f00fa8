"""The diagonal scan on Hopper: time streams once through shared memory, bound by memory.

A block owns 32 channels of one row and walks time in tiles of 64 steps, copied in and out by TMA while it computes
(`gpu_tiles` says how it makes a tile's steps parallel). Inputs are read once and outputs written once: with one
coefficient for all steps that is 4 planes forward (x, h) and 6 backward (d_h, h, d_x), all of 4 B T N bytes.

The device is full from 132 blocks on, 4096 channels at B = 1. With far fewer, time is cut into chunks that count as
rows: a first kernel finds what each chunk does to the state it starts from, XLA chains the chunks, and the kernels then
run on all chunks at once. That reads x (backward: d_h) twice.

Backward, from late to early; d_h is the gradient in h where the loss reads it, g the whole of it:

    one a:       u_t = keep_{t+1} g_{t+1}                g_t = d_h_t + conj(a) u_t  d_a = sum_t conj(h_t) u_t
    one a each:  v_t = conj(a_{t+1}) keep_{t+1} g_{t+1}  g_t = d_h_t + v_t          d_a_t = conj(h_{t-1}) keep_t g_t

The states u and v run backward as h runs forward. Summed from t = -1 on, conj(h_t) u_t needs no h of a neighbouring
tile. All sums have a fixed order. In here R = B chunks, I counts groups of STEPS steps, N is padded to whole tiles.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels.diagonal_scan import gpu_kernels as kernels
from pallas_kernels.diagonal_scan.gpu_tiles import LANES, STEPS, TILE
from pallas_kernels.diagonal_scan.planes import Planes, conj, each, pad, times

_NUM_SMS = 132
_MAX_ROWS = 65535  # of a CUDA grid's second dimension


def unsupported(a: Any, x_BTN: Any) -> str | None:
    """Why this kernel cannot serve arrays of such shapes, or None."""
    del a
    B = x_BTN[0].shape[0]
    return f"{B} rows are more than {_MAX_ROWS}" if B > _MAX_ROWS else None


def forward(a: Planes, x_BTN: Planes, keep_BT: jax.Array, h0_BN: Planes) -> Planes:
    """Return h_BTN, see the op."""
    B, T, N = x_BTN[0].shape
    chunks = num_chunks(B, T, N)
    a, x, keep = _fold(a), _fold(x_BTN), _fold_keep(keep_BT, chunks)
    start = _pad_channels(h0_BN)
    if chunks > 1:
        start = _starts(a, x, keep, start, chunks, reverse=False)
    return _unfold(kernels.forward(a, x, keep, start), B, T, N)


def backward(
    a: Planes, keep_BT: jax.Array, h0_BN: Planes, h_BTN: Planes, d_h_BTN: Planes
) -> tuple[Planes, Planes, Planes]:
    """Return the gradients of a, x and h0, see the op."""
    B, T, N = h_BTN[0].shape
    chunks = num_chunks(B, T, N)
    a, h, d_h, keep = _fold(a), _fold(h_BTN), _fold(d_h_BTN), _fold_keep(keep_BT, chunks)
    h0 = _pad_channels(h0_BN)
    end = each(jnp.zeros_like, h0)
    if chunks > 1:
        end = _starts(a, d_h, keep, end, chunks, reverse=True)
    if a[0].ndim > 1:
        d_x, d_a, v_RN = kernels.backward_per_step(a, h, d_h, keep, end, _before(h, h0))
        return _unfold(d_a, B, T, N), _unfold(d_x, B, T, N), each(lambda v_RN: v_RN[::chunks, :N], v_RN)
    d_x, d_a, u_RN = kernels.backward_constant(a, h, d_h, keep, end)
    u_BN = each(lambda u_RN: u_RN[::chunks], u_RN)
    d_a = each(lambda d_a, from_h0: (d_a.sum((0, 1, 2)) + from_h0.sum(0))[:N], d_a, times(conj(h0), u_BN))
    return d_a, _unfold(d_x, B, T, N), each(lambda d_h0: d_h0[:, :N], times(conj(a), u_BN))


def num_chunks(B: int, T: int, N: int) -> int:
    """Into how many chunks time is cut: 1 unless most of the device would stand idle."""
    blocks, tiles = B * -(-N // LANES), -(-T // TILE)
    if 3 * blocks > _NUM_SMS:
        return 1
    most = min(-(-_NUM_SMS // blocks), tiles // 4)
    return next((chunks for chunks in range(most, 1, -1) if tiles % chunks == 0), 1)


def _starts(a: Planes, x: Planes, keep: jax.Array, state_BN: Planes, chunks: int, *, reverse: bool) -> Planes:
    """The state that each chunk starts from, [R, N], given that before the first (`reverse`: after the last)."""
    B, N = state_BN[0].shape
    end, product = (
        each(lambda z_RN: z_RN.reshape(B, chunks, N), z_RN) for z_RN in kernels.summarise(a, x, keep, reverse=reverse)
    )

    def follow(earlier, later):
        return times(later[0], earlier[0]), times(later[0], earlier[1], later[1])

    product, end = lax.associative_scan(follow, (product, end), reverse=reverse, axis=1)
    after = times(product, each(lambda state: state[:, None], state_BN), end)

    def shift(after, state):
        parts = [after[:, 1:], state[:, None]] if reverse else [state[:, None], after[:, :-1]]
        return jnp.concatenate(parts, 1).reshape(B * chunks, N)

    return each(shift, after, state_BN)


def _before(h: Planes, h0_BN: Planes) -> Planes:
    """h of the step before each group of STEPS steps, [R I, 1, N]."""

    def shift(h, h0_BN):
        B, N = h0_BN.shape
        last_BIN = h[:, -1].reshape(B, -1, N)
        return jnp.concatenate([h0_BN[:, None], last_BIN[:, :-1]], 1).reshape(-1, 1, N)

    return each(shift, h, h0_BN)


def _fold(x: Planes) -> Planes:
    """[B,T,N] -> [R I, STEPS, N], padded to whole tiles; [N] is only padded."""
    x = _pad_channels(x)
    if x[0].ndim == 1:
        return x
    x = each(lambda x: pad(x, 1, TILE), x)
    return each(lambda x: x.reshape(-1, STEPS, x.shape[-1]), x)


def _fold_keep(keep_BT: jax.Array, chunks: int) -> jax.Array:
    """[B,T] -> [R, I, STEPS]; padding keeps nothing."""
    return pad(keep_BT, 1, TILE).reshape(keep_BT.shape[0] * chunks, -1, STEPS)


def _unfold(x: Planes, B: int, T: int, N: int) -> Planes:
    """[R I, STEPS, N] -> [B,T,N] without padding."""
    return each(lambda x: x.reshape(B, -1, x.shape[-1])[:, :T, :N], x)


def _pad_channels(x: Planes) -> Planes:
    return each(lambda x: pad(x, x.ndim - 1, LANES), x)
