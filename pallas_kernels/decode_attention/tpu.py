"""Decode attention on TPU: the cache streams once through VMEM, bound by memory.

The cache stays as it lies in memory: seen as [B, S K, h] it is one list of S K keys, each with a position and a head,
and all T H rows of a sequence attend to that list under one more condition, that the heads are the same. The products
of different heads, computed and masked, cost the matrix units nothing that counts: every key has to pass through them
anyway, and the rows are few. Taking the heads apart instead would mean strided reads of 16-bit rows.

In here R = T H rows, padded to 16; C = S K keys; a lane is one of the 128 columns of a register.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.decode_attention.reference import EMPTY_LSE, MASKED_SCORE, wanted_tiles

LANES = 128
_MAX_ROWS = 256
_TILE_BYTES = 2**21  # of keys, and of values: enough for the copy to run at full speed
_MAX_SCORES = 2**18  # float32 in VMEM, a few times over
_NEVER = jnp.iinfo(jnp.int32).max
_TINY = 1e-37


def unsupported(q_BTHh: Any, k_BSKh: Any, *, softcap: float | None) -> str | None:
    """Why this kernel cannot serve arrays of such shapes and dtypes, or None."""
    del softcap
    _, T, H, h = q_BTHh.shape
    S, K = k_BSKh.shape[1:3]
    if q_BTHh.dtype != k_BSKh.dtype or q_BTHh.dtype not in (jnp.bfloat16, jnp.float32):
        return f"q is {q_BTHh.dtype} and k {k_BSKh.dtype}; the kernel wants both bfloat16 or both float32"
    if h % LANES or LANES % K:  # XLA lays other caches out in another order: the copy would cost more than the kernel
        return (
            f"the cache has {K} heads of width {h}; only a width that {LANES} divides and a number of heads that "
            f"divides {LANES} can be read in place"
        )
    if S % LANES:
        return f"the cache has {S} slots, not a multiple of {LANES}"
    if T * H > _MAX_ROWS:
        return f"{T} queries of {H} heads make {T * H} rows, more than {_MAX_ROWS}"
    return None


def forward(q_BTHh, k_BSKh, v_BSKh, position_BS, lo_BT, hi_BT, *, scale: float, softcap: float | None):
    """Return (out_BTHh, lse_BTH), see the op."""
    B, T, H, h = q_BTHh.shape
    S, K = k_BSKh.shape[1:3]
    R = -(-T * H // 16) * 16
    slots = _slots_per_tile(R, S, K, h, k_BSKh.dtype.itemsize)

    def rows(x_BTHn):
        """As [B,R,n]; the rows that fill up are zero, with an empty interval."""
        x_BRn = x_BTHn.reshape(B, T * H, x_BTHn.shape[3])
        return jnp.pad(x_BRn, ((0, 0), (0, R - T * H), (0, 0)))

    # Column c of a tile belongs to head c % K. A row never sees the others, whatever their position.
    same_head_Hl = jnp.arange(H)[:, None] // (H // K) == jnp.arange(LANES) % K
    lo_BTHl = jnp.where(same_head_Hl, lo_BT[:, :, None, None], _NEVER)
    hi_BTH1 = jnp.broadcast_to(hi_BT[:, :, None, None], (B, T, H, 1))
    out_BRh, lse_BR1 = _kernel(
        wanted_tiles(position_BS, lo_BT, hi_BT, slots),
        rows(q_BTHh),
        k_BSKh.reshape(B, S * K, h),
        v_BSKh.reshape(B, S * K, h),
        position_BS.reshape(B, S // LANES, 1, LANES),
        rows(lo_BTHl),
        rows(hi_BTH1),
        slots=slots,
        scale=scale,
        softcap=softcap,
    )
    return out_BRh[:, : T * H].reshape(q_BTHh.shape), lse_BR1[:, : T * H, 0].reshape(B, T, H)


def _slots_per_tile(R: int, S: int, K: int, h: int, itemsize: int) -> int:
    """The largest tile, in multiples of LANES that divide the cache, whose keys and scores fit into VMEM."""
    most = min(_TILE_BYTES // (h * itemsize), _MAX_SCORES // R) // K
    num = S // LANES
    return LANES * max(n for n in range(1, num + 1) if num % n == 0 and (n == 1 or n * LANES <= most))


def _kernel(tiles_B2, q_BRh, k_BCh, v_BCh, position_Bn1l, lo_BRl, hi_BR1, *, slots, scale, softcap):
    """Return out_BRh and lse_BR1. Steps beyond the last wanted tile stay at that tile, which is not read again."""
    B, R, h = q_BRh.shape
    num_rows = position_Bn1l.shape[1]  # of LANES slots
    columns = slots * (k_BCh.shape[1] // (num_rows * LANES))

    def tile(b, j, tiles_ref):
        return jnp.maximum(jnp.minimum(tiles_ref[b, 0] + j, tiles_ref[b, 1] - 1), 0)

    row_block = pl.BlockSpec((1, R, h), lambda b, j, _: (b, 0, 0))
    bound_block = pl.BlockSpec((1, R, 1), lambda b, j, _: (b, 0, 0))
    key_block = pl.BlockSpec((1, columns, h), lambda b, j, tiles_ref: (b, tile(b, j, tiles_ref), 0))
    position_block = pl.BlockSpec(
        (1, slots // LANES, 1, LANES), lambda b, j, tiles_ref: (b, tile(b, j, tiles_ref), 0, 0)
    )
    lo_block = pl.BlockSpec((1, R, LANES), lambda b, j, _: (b, 0, 0))
    return pl.pallas_call(
        functools.partial(_step, scale=scale, softcap=softcap),
        out_shape=(jax.ShapeDtypeStruct(q_BRh.shape, q_BRh.dtype), jax.ShapeDtypeStruct((B, R, 1), jnp.float32)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B, num_rows * LANES // slots),
            in_specs=(row_block, key_block, key_block, position_block, lo_block, bound_block),
            out_specs=(row_block, bound_block),
            scratch_shapes=(
                pltpu.VMEM((R, 1), jnp.float32),
                pltpu.VMEM((R, 1), jnp.float32),
                pltpu.VMEM((R, h), jnp.float32),
            ),
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=32 * 2**20
        ),
        name="decode_attention",
    )(tiles_B2, q_BRh, k_BCh, v_BCh, position_Bn1l, lo_BRl, hi_BR1)


def _step(
    tiles_B2, q_1Rh, k_1Ch, v_1Ch, position_1n1l, lo_1Rl, hi_1R1, out_1Rh, lse_1R1, peak_R1, total_R1, sum_Rh,
    *, scale, softcap
):  # fmt: skip
    """Online softmax over one tile of the cache (arXiv 2307.08691, algorithm 1)."""
    b, j = pl.program_id(0), pl.program_id(1)

    @pl.when(j == 0)
    def _start():
        peak_R1[...] = jnp.full_like(peak_R1, EMPTY_LSE)
        total_R1[...] = jnp.zeros_like(total_R1)
        sum_Rh[...] = jnp.zeros_like(sum_Rh)

    @pl.when(tiles_B2[b, 0] + j < tiles_B2[b, 1])
    def _accumulate():
        s_RC = _dot(q_1Rh[0], k_1Ch[0], contract=1) * scale
        if softcap is not None:
            s_RC = softcap * jnp.tanh(s_RC / softcap)
        position_1C = _for_each_key(position_1n1l[0], s_RC.shape[1])
        lo_RC = jnp.concatenate([lo_1Rl[0]] * (s_RC.shape[1] // LANES), axis=1)
        seen_RC = (lo_RC <= position_1C) & (position_1C < hi_1R1[0])
        s_RC = jnp.where(seen_RC, s_RC, MASKED_SCORE)
        new_peak_R1 = jnp.maximum(peak_R1[...], s_RC.max(1, keepdims=True))
        p_RC = jnp.exp(s_RC - new_peak_R1)
        shrink_R1 = jnp.exp(peak_R1[...] - new_peak_R1)
        peak_R1[...] = new_peak_R1
        total_R1[...] = total_R1[...] * shrink_R1 + p_RC.sum(1, keepdims=True)
        sum_Rh[...] = sum_Rh[...] * shrink_R1 + _dot(p_RC.astype(v_1Ch.dtype), v_1Ch[0], contract=0)

    @pl.when(j == pl.num_programs(1) - 1)
    def _finish():
        total = jnp.maximum(total_R1[...], _TINY)
        out_1Rh[0] = (sum_Rh[...] / total).astype(out_1Rh.dtype)
        lse_1R1[0] = peak_R1[...] + jnp.log(total)


def _for_each_key(position_n1l, columns: int):
    """Repeat the position of each slot for its K heads, as int32[1,C]; a gather for every 128 columns."""
    heads = columns // position_n1l.size
    slot_8l = lax.broadcasted_iota(jnp.int32, (8, LANES), 1) // heads
    parts = []
    for row in range(position_n1l.shape[0]):
        position_8l = jnp.broadcast_to(position_n1l[row], (8, LANES))
        for part in range(heads):
            index_8l = slot_8l + part * (LANES // heads)
            parts.append(jnp.take_along_axis(position_8l, index_8l, axis=1, mode="promise_in_bounds"))
    return jnp.concatenate(parts, axis=1)[:1]


def _dot(x_RC, y, *, contract: int):
    """Contract the columns of x with dim `contract` of y; float32 operands are not rounded to bfloat16."""
    precision = lax.Precision.HIGHEST if y.dtype == jnp.float32 else lax.Precision.DEFAULT
    dims = (((1,), (contract,)), ((), ()))
    return lax.dot_general(x_RC, y, dims, precision=precision, preferred_element_type=jnp.float32)
