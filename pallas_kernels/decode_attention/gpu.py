"""Decode attention on Hopper: the cache streams once through shared memory, bound by memory.

The few rows that share a key/value head are the narrow side of every product: scores_SR = K Q' and out_hR += V' P, with
the slots, then the head width, on the 64-high side of wgmma. So a step costs what its rows cost, not 64 of them, and
registers stay few enough for two blocks on each multiprocessor, of which one loads while the other computes.

The slots are split over blocks until the multiprocessors are full (Flash-Decoding, 2023); the splits are merged in XLA.
In here R = T H / K rows, padded to a multiple of 8, and i counts splits.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.decode_attention.reference import EMPTY_LSE, MASKED_SCORE, wanted_tiles
from pallas_kernels.interval_attention import gpu_tiles
from pallas_kernels.interval_attention.gpu_tiles import COLUMNS, LN_2, LOG2_E, ROWS, add_product, along, full, product

SLOTS = 128  # caches come in multiples of it
_NUM_SMS = 132
_SMEM_OF_SM = 226 * 1024  # bytes that blocks share; each costs 1 KB more
_TINY = 1e-37


def unsupported(q_BTHh: Any, k_BSKh: Any, *, softcap: float | None) -> str | None:
    """Why this kernel cannot serve arrays of such shapes and dtypes, or None."""
    _, T, H, h = q_BTHh.shape
    _, S, K, _ = k_BSKh.shape
    if S % SLOTS:
        return f"the cache has {S} slots, not a multiple of {SLOTS}"
    problem = gpu_tiles.unsupported(q_BTHh, k_BSKh, softcap=softcap)
    rows, max_rows = T * H // K, 64 if h < 256 else 32  # more would not fit into the registers
    if problem is None and rows > max_rows:
        return f"{T} queries of {H // K} heads that share a key make {rows} rows, more than {max_rows}"
    return problem


def forward(q_BTHh, k_BSKh, v_BSKh, position_BS, lo_BT, hi_BT, *, scale: float, softcap: float | None):
    """Return (out_BTHh, lse_BTH), see the op."""
    B, T, H, h = q_BTHh.shape
    S, K = k_BSKh.shape[1:3]
    G = H // K
    q_BKRh = jnp.moveaxis(q_BTHh.reshape(B, T, K, G, h), 1, 2).reshape(B, K, T * G, h)
    lo_BR, hi_BR = (gpu_tiles.pad(jnp.repeat(x, G, axis=1), 1, 8) for x in (lo_BT, hi_BT))
    q_BKRh = gpu_tiles.pad(q_BKRh, 2, 8)
    R = q_BKRh.shape[2]
    tile = 128 if h == 64 and R <= 32 else 64
    stages, blocks_per_sm = _stages(R, h, tile)
    partial = _kernel(
        q_BKRh, k_BSKh, v_BSKh, position_BS, lo_BR, hi_BR, wanted_tiles(position_BS, lo_BT, hi_BT, tile),
        tile=tile, stages=stages, splits=num_splits(B * K, S, blocks_per_sm), scale=scale, softcap=softcap,
    )  # fmt: skip
    out_BKRh, lse_BKR = _merge(*partial)

    def unfold(x_BKR):
        return jnp.moveaxis(x_BKR[:, :, : T * G].reshape(B, K, T, G, -1), 1, 2).reshape(B, T, H, -1)

    return unfold(out_BKRh).astype(q_BTHh.dtype), unfold(lse_BKR)[..., 0]


def num_splits(heads: int, slots: int, blocks_per_sm: int) -> int:
    """Into how many parts the slots are cut for `heads` = B K heads in all, so that no multiprocessor stands idle.

    The fewest, of 512 to 8,192 slots each, whose last wave of blocks is nearly full; else those with the fullest one.
    """
    at_once = _NUM_SMS * blocks_per_sm

    def fullness(splits: int) -> float:
        return heads * splits / (-(-heads * splits // at_once) * at_once)

    allowed = range(-(-slots // 8192), max(slots // 512, 1) + 1)
    return next((n for n in allowed if fullness(n) > 0.95), max(allowed, key=fullness))


def _stages(R: int, h: int, tile: int) -> tuple[int, int]:
    """How many tiles of keys and values are under way in a block, and how many blocks share a multiprocessor."""
    stage_bytes = tile * (4 * h + 4)
    other_bytes = 2 * R * (h + tile) + 2560  # queries and weights, then 2 KB for reductions, barriers and alignment
    for blocks in (2, 1):
        stages = (_SMEM_OF_SM // blocks - other_bytes) // stage_bytes
        if stages >= 2:
            return min(stages, 4), blocks
    raise AssertionError(f"{R} rows of width {h} do not fit")


def _merge(out_BKihR, peak_BKiR, total_BKiR):
    """Normalise and merge the splits: `interval_attention.merge` of what has not been divided by its sum yet."""
    peak_BKR = peak_BKiR.max(2)
    weight_BKiR = jnp.exp2(peak_BKiR - peak_BKR[:, :, None])
    total_BKR = (weight_BKiR * total_BKiR).sum(2)
    out_BKhR = (weight_BKiR[:, :, :, None] * out_BKihR).sum(2) / jnp.maximum(total_BKR, _TINY)[:, :, None]
    lse_BKR = LN_2 * (peak_BKR + jnp.log2(jnp.maximum(total_BKR, _TINY)))
    return jnp.swapaxes(out_BKhR, 2, 3), jnp.where(total_BKR > 0, lse_BKR, EMPTY_LSE)


def _kernel(q_BKRh, k_BSKh, v_BSKh, position_BS, lo_BR, hi_BR, tiles_B2, *, tile, stages, splits, scale, softcap):
    """Return out_BKihR, not yet normalised, and peak_BKiR and total_BKiR of the weights 2^(score - peak)."""
    B, K, R, h = q_BKRh.shape
    body = functools.partial(_block, tile=tile, stages=stages, splits=splits, scale=scale, softcap=softcap)
    return plgpu.kernel(
        body,
        out_type=(
            jax.ShapeDtypeStruct((B, K, splits, h, R), jnp.float32),
            jax.ShapeDtypeStruct((B, K, splits, R), jnp.float32),
            jax.ShapeDtypeStruct((B, K, splits, R), jnp.float32),
        ),
        scratch_types=(
            gpu_tiles.smem((R, h), q_BKRh.dtype),
            gpu_tiles.smem((R, tile), q_BKRh.dtype),
            plgpu.Barrier(),
        ),
        # Heads last, so that blocks which run side by side read what lies side by side.
        grid=(B, splits, K),
        grid_names=("batch", "split", "head"),
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )(q_BKRh, k_BSKh, v_BSKh, position_BS, lo_BR, hi_BR, tiles_B2)


def _block(
    q_BKRh, k_BSKh, v_BSKh, position_BS, lo_BR, hi_BR, tiles_B2, out_BKihR, peak_BKiR, total_BKiR, q_Rh, p_RS, q_loaded,
    *, tile, stages, splits, scale, softcap
):  # fmt: skip
    """What one block does: all rows of one key/value head over one split of the wanted tiles."""
    batch, split, head = (lax.axis_index(name) for name in ("batch", "split", "head"))
    R, h = q_Rh.shape
    plgpu.copy_gmem_to_smem(q_BKRh.at[batch, head], q_Rh, q_loaded)
    lo_R, hi_R = (gpu_tiles.load(x_BR.at[batch], COLUMNS) for x_BR in (lo_BR, hi_BR))
    first, end = tiles_B2[batch, 0], tiles_B2[batch, 1]
    share = lax.div(end - first + splits - 1, splits)
    start = first + split * share
    plgpu.barrier_wait(q_loaded)

    def step(_, k_Sh, v_Sh, position_S, carry):
        peak_R, total_SR, out_hR = carry
        s_SR = _log2_scores(product(k_Sh, q_Rh.T), scale, softcap)
        shape = s_SR.shape
        position_SR = along(gpu_tiles.load(position_S, ROWS), shape, 0)
        seen_SR = (along(lo_R, shape, 1) <= position_SR) & (position_SR < along(hi_R, shape, 1))
        s_SR = jnp.where(seen_SR, s_SR, MASKED_SCORE)
        new_peak_R = jnp.maximum(peak_R, s_SR.max(axis=0))
        shrink_R = jnp.exp2(peak_R - new_peak_R)
        p_SR = jnp.exp2(s_SR - along(new_peak_R, shape, 1))
        p_RS.T[...] = p_SR.astype(p_RS.dtype)
        plgpu.commit_smem()
        # The sum over slots, which crosses warps, waits until the end.
        total_SR = total_SR * along(shrink_R, shape, 1) + p_SR
        out_hR = add_product(out_hR * along(shrink_R, out_hR.shape, 1), v_Sh.T, p_RS.T)
        return new_peak_R, total_SR, out_hR

    layout = plgpu.Layout.WGMMA
    in_smem = gpu_tiles.smem((tile, h), k_BSKh.dtype)
    matrix = plgpu.BlockSpec(in_smem.shape, lambda j: (start + j, 0), transforms=in_smem.transforms)
    peak_R, total_SR, out_hR = plgpu.emit_pipeline(
        step,
        grid=(jnp.clip(end - start, 0, share),),
        in_specs=(
            matrix,
            matrix,
            plgpu.BlockSpec((tile,), lambda j: (start + j,)),
        ),
        max_concurrent_steps=stages,
        init_carry=(full((R,), EMPTY_LSE, COLUMNS), full((tile, R), 0.0, layout), full((h, R), 0.0, layout)),
    )(k_BSKh.at[batch, :, head], v_BSKh.at[batch, :, head], position_BS.at[batch])
    results = (out_hR, peak_R, total_SR.sum(axis=0))
    _write(results, [x.at[batch, head, split] for x in (out_BKihR, peak_BKiR, total_BKiR)])


def _log2_scores(s_SR, scale: float, softcap: float | None):
    """Scaled and capped scores in units of ln 2, so that weights are powers of two."""
    if softcap is None:
        return s_SR * (scale * LOG2_E)
    # tanh(x) = 1 - 2 / (1 + e^2x): the tanh instruction has errors of 2^-11, times softcap
    return softcap * LOG2_E - (2 * softcap * LOG2_E) / (1 + jnp.exp2(s_SR * (2 * scale * LOG2_E / softcap)))


def _write(arrays, refs):
    """Copy from registers through shared memory, which the pipeline has left free, to global memory."""

    def write(*buffers):
        for buffer, array in zip(buffers, arrays, strict=True):
            buffer[...] = array
        plgpu.commit_smem()
        for buffer, ref in zip(buffers, refs, strict=True):
            plgpu.copy_smem_to_gmem(buffer, ref)
        plgpu.wait_smem_to_gmem(0)

    pl.run_scoped(write, *(plgpu.SMEM(array.shape, jnp.float32) for array in arrays))
