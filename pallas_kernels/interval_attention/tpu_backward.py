"""Gradients of interval attention for TPUs: one kernel for queries, one for keys and values.

FlashAttention-2 (arXiv 2307.08691, algorithm 2), split in two so that every sum stays in one core's memory and is taken
in a fixed order: results are the same bit by bit from run to run.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.interval_attention.reference import EMPTY_LSE
from pallas_kernels.interval_attention.tpu_scores import Scores, allowed, dot, row_slices
from pallas_kernels.interval_attention.tpu_tiles import Fold
from pallas_kernels.interval_attention.tpu_visits import HERE, THERE, Visit, run

__all__ = ["backward"]


@functools.partial(jax.jit, static_argnames=("scale", "softcap"))
def backward(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    lo_BT: jax.Array,
    hi_BT: jax.Array,
    out_BTHh: jax.Array,
    lse_BTH: jax.Array,
    d_out_BTHh: jax.Array,
    d_lse_BTH: jax.Array,
    *,
    scale: float,
    softcap: float | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the gradients of q, k and v as `reference.backward` does; `scale` must be positive."""
    fold, scores = Fold.of(q_BTHh, k_BSKh), Scores(scale, softcap)
    lo_1T, hi_1T = fold.intervals_in(lo_BT, hi_BT)
    # d score = p (d p - delta): a gradient for lse is one more term of the row constant.
    delta_BTH = (out_BTHh.astype(jnp.float32) * d_out_BTHh.astype(jnp.float32)).sum(-1) - d_lse_BTH
    rows = [
        *(fold.rows_in(x) for x in (q_BTHh, d_out_BTHh.astype(q_BTHh.dtype))),
        *(fold.constants_in(x) for x in (lse_BTH / scores.factor, delta_BTH)),
        *(fold.bounds_in(x) for x in (lo_1T, hi_1T)),
    ]
    keys = [fold.keys_in(k_BSKh), fold.keys_in(v_BSKh)]
    like_q, like_k = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (rows[0], keys[0]))

    (d_q_Knrh,) = run(
        functools.partial(_query_kernel, scores=scores),
        "interval_attention_backward_queries",
        fold.visits_by_rows(lo_1T, hi_1T),
        inputs=[*((x, HERE) for x in rows), *((x, THERE) for x in keys)],
        outputs=[(like_q, HERE)],
        scratch=[(fold.h, fold.rows)],
    )
    d_k_Knkh, d_v_Knkh = run(
        functools.partial(_key_kernel, scores=scores),
        "interval_attention_backward_keys",
        fold.visits_by_keys(lo_1T, hi_1T),
        inputs=[*((x, THERE) for x in rows), *((x, HERE) for x in keys)],
        outputs=[(like_k, HERE), (like_k, HERE)],
        scratch=[(fold.k_tile, fold.h), (fold.k_tile, fold.h)],
    )
    return fold.rows_out(d_q_Knrh), fold.keys_out(d_k_Knkh), fold.keys_out(d_v_Knkh)


def _query_kernel(*refs, scores: Scores):
    *visits, q_rh, d_out_rh, norm_1r, delta_1r, lo_1r, hi_1r, k_kh, v_kh, d_q_rh, sum_hr = refs
    visit = Visit.read(*visits)
    row_refs = (q_rh, d_out_rh, norm_1r, delta_1r, lo_1r, hi_1r)

    @pl.when(visit.is_first)
    def _():
        sum_hr[...] = jnp.zeros_like(sum_hr)

    def update(masked: bool):
        for rows in row_slices(q_rh.shape[0]):
            _, d_s_kr = _tile(scores, row_refs, rows, k_kh, v_kh, visit.there if masked else None)
            sum_hr[:, rows] += dot(k_kh[...], d_s_kr, (0, 0))

    pl.when(visit.is_inner)(lambda: update(masked=False))
    pl.when(visit.is_edge)(lambda: update(masked=True))

    @pl.when(visit.is_last)
    def _():
        d_q_rh[...] = (sum_hr[...] * scores.scale).T.astype(d_q_rh.dtype)


def _key_kernel(*refs, scores: Scores):
    *visits, q_rh, d_out_rh, norm_1r, delta_1r, lo_1r, hi_1r, k_kh, v_kh, d_k_kh, d_v_kh, sum_k_kh, sum_v_kh = refs
    visit = Visit.read(*visits)
    row_refs = (q_rh, d_out_rh, norm_1r, delta_1r, lo_1r, hi_1r)

    @pl.when(visit.is_first)
    def _():
        sum_k_kh[...] = jnp.zeros_like(sum_k_kh)
        sum_v_kh[...] = jnp.zeros_like(sum_v_kh)

    def update(masked: bool):
        for rows in row_slices(q_rh.shape[0]):
            p_kr, d_s_kr = _tile(scores, row_refs, rows, k_kh, v_kh, visit.here if masked else None)
            sum_v_kh[...] += dot(p_kr, d_out_rh[rows], (1, 0))
            sum_k_kh[...] += dot(d_s_kr, q_rh[rows], (1, 0))

    pl.when(visit.is_inner)(lambda: update(masked=False))
    pl.when(visit.is_edge)(lambda: update(masked=True))

    @pl.when(visit.is_last)
    def _():
        d_k_kh[...] = (sum_k_kh[...] * scores.scale).astype(d_k_kh.dtype)
        d_v_kh[...] = sum_v_kh[...].astype(d_v_kh.dtype)


def _tile(scores: Scores, row_refs, rows, k_kh, v_kh, key_tile):
    """Probabilities and gradients of the scaled scores (less the scale), masked if a key tile is given."""
    q_rh, d_out_rh, norm_1r, delta_1r, lo_1r, hi_1r = (
        ref[rows] if ref.shape[0] > 1 else ref[:, rows] for ref in row_refs
    )
    # With a logsumexp beyond all scores the probabilities of a row without keys are exactly 0.
    norm_1r = jnp.where(lo_1r < hi_1r, norm_1r, -EMPTY_LSE)
    s_kr = scores.raw(k_kh[...], q_rh)
    p_kr = scores.exp(s_kr - norm_1r)
    if key_tile is not None:
        p_kr = jnp.where(allowed(lo_1r, hi_1r, key_tile, k_kh.shape[0]), p_kr, 0)
    d_s_kr = p_kr * (dot(v_kh[...], d_out_rh, (1, 1)) - delta_1r)
    if scores.softcap is not None:
        d_s_kr *= 1 - s_kr * s_kr
    return p_kr.astype(q_rh.dtype), d_s_kr.astype(q_rh.dtype)
