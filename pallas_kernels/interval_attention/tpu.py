"""Interval attention for TPUs (Mosaic): online softmax over the tiles that hold an allowed score.

FlashAttention-2 (arXiv 2307.08691, algorithm 1) on transposed scores. `tpu_tiles` says how arrays are laid out,
`tpu_visits` how the grid is walked, `tpu_scores` how a tile of scores is computed.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.interval_attention import tpu_tiles
from pallas_kernels.interval_attention.reference import EMPTY_LSE
from pallas_kernels.interval_attention.tpu_backward import backward
from pallas_kernels.interval_attention.tpu_scores import Scores, allowed, dot, row_slices
from pallas_kernels.interval_attention.tpu_tiles import Fold
from pallas_kernels.interval_attention.tpu_visits import HERE, THERE, Visit, run

__all__ = ["backward", "forward", "unsupported"]

_MASKED_SCORE = 2 * EMPTY_LSE


def unsupported(q_BTHh: jax.Array, k_BSKh: jax.Array, *, softcap: float | None = None) -> str | None:
    """Why these kernels cannot serve a call, or None."""
    del softcap
    if q_BTHh.dtype not in (jnp.bfloat16, jnp.float32) or k_BSKh.dtype != q_BTHh.dtype:
        return f"q and k are {q_BTHh.dtype} and {k_BSKh.dtype}; both must be bfloat16 or both float32"
    if q_BTHh.shape[-1] not in (64, 128, 256):
        return f"the head width is {q_BTHh.shape[-1]}, not 64, 128 or 256"
    return tpu_tiles.problem(q_BTHh, k_BSKh)


@functools.partial(jax.jit, static_argnames=("scale", "softcap"))
def forward(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    lo_BT: jax.Array,
    hi_BT: jax.Array,
    *,
    scale: float,
    softcap: float | None,
) -> tuple[jax.Array, jax.Array]:
    """Return (out_BTHh, lse_BTH) as `reference.forward` does; `scale` must be positive."""
    fold = Fold.of(q_BTHh, k_BSKh)
    lo_1T, hi_1T = fold.intervals_in(lo_BT, hi_BT)
    q_Knrh = fold.rows_in(q_BTHh)
    inputs = [
        (q_Knrh, HERE),
        (fold.keys_in(k_BSKh), THERE),
        (fold.keys_in(v_BSKh), THERE),
        (fold.bounds_in(lo_1T), HERE),
        (fold.bounds_in(hi_1T), HERE),
    ]
    outputs = [
        (jax.ShapeDtypeStruct(q_Knrh.shape, q_Knrh.dtype), HERE),
        (jax.ShapeDtypeStruct((fold.K, fold.num_row_tiles, 1, fold.rows), jnp.float32), HERE),
    ]
    out_Knrh, lse_Kn1r = run(
        functools.partial(_kernel, scores=Scores(scale, softcap)),
        "interval_attention_forward",
        fold.visits_by_rows(lo_1T, hi_1T),
        inputs,
        outputs,
        scratch=[(1, fold.rows), (1, fold.rows), (fold.h, fold.rows)],
    )
    return fold.rows_out(out_Knrh), fold.constants_out(lse_Kn1r)


def _kernel(*refs, scores: Scores):
    *visits, q_rh, k_kh, v_kh, lo_1r, hi_1r, out_rh, lse_1r, peak_1r, total_1r, sum_hr = refs
    visit = Visit.read(*visits)

    @pl.when(visit.is_first)
    def _():
        peak_1r[...] = jnp.full_like(peak_1r, EMPTY_LSE)
        total_1r[...] = jnp.zeros_like(total_1r)
        sum_hr[...] = jnp.zeros_like(sum_hr)

    def update(masked: bool):
        slices = row_slices(q_rh.shape[0])
        next_s_kr = scores.raw(k_kh[...], q_rh[slices[0]])
        for i, rows in enumerate(slices):
            s_kr = next_s_kr
            if i + 1 < len(slices):
                next_s_kr = scores.raw(k_kh[...], q_rh[slices[i + 1]])
            if masked:
                is_allowed_kr = allowed(lo_1r[:, rows], hi_1r[:, rows], visit.there, k_kh.shape[0])
                s_kr = jnp.where(is_allowed_kr, s_kr, _MASKED_SCORE)
            old_peak_1r = peak_1r[:, rows]
            new_peak_1r = jnp.maximum(old_peak_1r, s_kr.max(0, keepdims=True))
            p_kr, shrink_1r = scores.exp(s_kr - new_peak_1r), scores.exp(old_peak_1r - new_peak_1r)
            peak_1r[:, rows] = new_peak_1r
            total_1r[:, rows] = total_1r[:, rows] * shrink_1r + p_kr.sum(0, keepdims=True)
            sum_hr[:, rows] = sum_hr[:, rows] * shrink_1r + dot(v_kh[...], p_kr.astype(v_kh.dtype), (0, 0))

    pl.when(visit.is_inner)(lambda: update(masked=False))
    pl.when(visit.is_edge)(lambda: update(masked=True))

    @pl.when(visit.is_last)
    def _():
        # A row without keys among rows that have some has met inner tiles unmasked.
        has_keys_1r = lo_1r[...] < hi_1r[...]
        out_hr = jnp.where(has_keys_1r, sum_hr[...] / total_1r[...], 0)
        out_rh[...] = out_hr.T.astype(out_rh.dtype)
        lse_1r[...] = jnp.where(has_keys_1r, peak_1r[...] * scores.factor + jnp.log(total_1r[...]), EMPTY_LSE)
