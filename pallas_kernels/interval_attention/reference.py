"""Interval attention in plain JAX: tiles of block x block, forward and backward, never a T x S array.

Queries and keys are cut into blocks. For each query block a loop runs over the key blocks between the smallest `lo` and
the largest `hi` of its rows and touches no other, so a window costs O(T window), in both directions.

In here G = H / K query heads share a key/value head, and heads stand before time: q_BKGth and k_BKsh are one block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

# A masked score lies so far below the running maximum's start that its exponential is exactly 0, even in a row where
# every score is masked. Finite numbers keep such rows and their gradients free of NaN.
EMPTY_LSE = -1e30
_MASKED_SCORE = -2e30
_TINY = 1e-37


def forward(q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, *, scale: float, softcap: float | None, block: int):
    """Return (out_BTHh, lse_BTH): online softmax over key blocks (arXiv 2307.08691, algorithm 1)."""
    lo_BT, hi_BT = (jnp.clip(bound, 0, k_BSKh.shape[1]) for bound in (lo_BT, hi_BT))
    keys, values, size, num = _key_blocks(k_BSKh, v_BSKh, block)

    def query_block(_, inputs):
        q_BKGth, lo_Bt, hi_Bt = inputs

        def step(j, carry):
            peak, total, out_BKGth = carry
            k_BKsh, v_BKsh = _take(keys, j, size), _take(values, j, size)
            s_BKGts = _scores(q_BKGth, k_BKsh, lo_Bt, hi_Bt, j * size, scale, softcap)
            new_peak = jnp.maximum(peak, s_BKGts.max(-1))
            p_BKGts = jnp.exp(s_BKGts - new_peak[..., None])
            shrink = jnp.exp(peak - new_peak)
            out_BKGth = out_BKGth * shrink[..., None] + _dot("BKGts,BKsh->BKGth", p_BKGts.astype(v_BKsh.dtype), v_BKsh)
            return new_peak, total * shrink + p_BKGts.sum(-1), out_BKGth

        out_BKGth = jnp.zeros_like(q_BKGth, jnp.float32)
        total = jnp.zeros_like(q_BKGth[..., 0], jnp.float32)
        carry = (total + EMPTY_LSE, total, out_BKGth)
        peak, total, out_BKGth = _over_key_blocks(step, carry, lo_Bt, hi_Bt, size, num)
        total = jnp.maximum(total, _TINY)
        return None, ((out_BKGth / total[..., None]).astype(q_BKGth.dtype), peak + jnp.log(total))

    q_nBKGth = _query_blocks(_split_heads(q_BTHh, k_BSKh), block)
    _, outputs = lax.scan(query_block, None, (q_nBKGth, _row_blocks(lo_BT, block), _row_blocks(hi_BT, block)))
    out_BTHh, lse_BTH1 = (_join(x, q_BTHh.shape[1]) for x in (outputs[0], outputs[1][..., None]))
    return out_BTHh, lse_BTH1[..., 0]


def backward(q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, out_BTHh, lse_BTH, d_out_BTHh, d_lse_BTH, *, scale, softcap, block):
    """Return the gradients of q, k and v; probabilities are recomputed tile by tile from lse (algorithm 2, ibid.)."""
    T, S = q_BTHh.shape[1], k_BSKh.shape[1]
    lo_BT, hi_BT = (jnp.clip(bound, 0, S) for bound in (lo_BT, hi_BT))
    keys, values, size, num = _key_blocks(k_BSKh, v_BSKh, block)
    # d score = p (d p - delta): a gradient for lse is one more term of the row constant.
    delta_BTH = _dot("BTHh,BTHh->BTH", out_BTHh, d_out_BTHh) - d_lse_BTH

    def query_block(d_kv, inputs):
        q_BKGth, d_out_BKGth, lse_BKGt1, delta_BKGt1, lo_Bt, hi_Bt = inputs

        def step(j, carry):
            d_q, d_keys, d_values = carry
            k_BKsh, v_BKsh = _take(keys, j, size), _take(values, j, size)
            s_BKGts = _scores(q_BKGth, k_BKsh, lo_Bt, hi_Bt, j * size, scale, softcap)
            p_BKGts = jnp.exp(s_BKGts - lse_BKGt1)
            d_s_BKGts = p_BKGts * (_dot("BKGth,BKsh->BKGts", d_out_BKGth, v_BKsh) - delta_BKGt1) * scale
            if softcap is not None:  # tanh' = 1 - tanh^2; the maximum bounds masked scores, whose square overflows
                d_s_BKGts *= 1 - jnp.square(jnp.maximum(s_BKGts, -softcap) / softcap)
            p_BKGts, d_s_BKGts = p_BKGts.astype(q_BKGth.dtype), d_s_BKGts.astype(q_BKGth.dtype)
            d_q += _dot("BKGts,BKsh->BKGth", d_s_BKGts, k_BKsh)
            d_keys = _add(d_keys, j, size, _dot("BKGts,BKGth->BKsh", d_s_BKGts, q_BKGth))
            d_values = _add(d_values, j, size, _dot("BKGts,BKGth->BKsh", p_BKGts, d_out_BKGth))
            return d_q, d_keys, d_values

        carry = (jnp.zeros_like(q_BKGth, jnp.float32), *d_kv)
        d_q_BKGth, *d_kv = _over_key_blocks(step, carry, lo_Bt, hi_Bt, size, num)
        return tuple(d_kv), d_q_BKGth.astype(q_BKGth.dtype)

    rows = (q_BTHh, d_out_BTHh, lse_BTH[..., None], delta_BTH[..., None])
    inputs = (
        *(_query_blocks(_split_heads(x, k_BSKh), block) for x in rows),
        _row_blocks(lo_BT, block),
        _row_blocks(hi_BT, block),
    )
    d_kv = (jnp.zeros_like(keys, jnp.float32), jnp.zeros_like(values, jnp.float32))
    d_kv, d_q_nBKGth = lax.scan(query_block, d_kv, inputs)
    d_k_BSKh, d_v_BSKh = (jnp.swapaxes(x, 1, 2)[:, :S].astype(k_BSKh.dtype) for x in d_kv)
    return _join(d_q_nBKGth, T), d_k_BSKh, d_v_BSKh


def _scores(q_BKGth, k_BKsh, lo_Bt, hi_Bt, first_key, scale, softcap):
    """Scaled, capped and masked scores of one tile."""
    s_BKGts = _dot("BKGth,BKsh->BKGts", q_BKGth, k_BKsh) * scale
    if softcap is not None:
        s_BKGts = softcap * jnp.tanh(s_BKGts / softcap)
    key_s = first_key + jnp.arange(k_BKsh.shape[2])
    allowed_Bts = (lo_Bt[..., None] <= key_s) & (key_s < hi_Bt[..., None])
    return jnp.where(allowed_Bts[:, None, None], s_BKGts, _MASKED_SCORE)


def _over_key_blocks(step: Callable[[Any, Any], Any], carry, lo_Bt, hi_Bt, size: int, num: int):
    """Fold `step(j, carry)` over the key blocks that at least one row needs."""
    if num == 1:
        return step(0, carry)
    has_keys_Bt = lo_Bt < hi_Bt
    first = jnp.min(jnp.where(has_keys_Bt, lo_Bt, num * size)) // size
    end = (jnp.max(jnp.where(has_keys_Bt, hi_Bt, 0)) + size - 1) // size
    return lax.fori_loop(first, end, step, carry)


def _dot(equation: str, x, y):
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


def _take(x_BKSh, j, size: int):
    return lax.dynamic_slice_in_dim(x_BKSh, j * size, size, axis=2)


def _add(x_BKSh, j, size: int, update_BKsh):
    return lax.dynamic_update_slice_in_dim(x_BKSh, _take(x_BKSh, j, size) + update_BKsh, j * size, axis=2)


def _key_blocks(k_BSKh, v_BSKh, block: int):
    """Keys and values as [B,K,num*size,h], the size of a block and the number of blocks."""
    S = k_BSKh.shape[1]
    size = min(block, S)
    num = -(-S // size)
    padding = ((0, 0), (0, 0), (0, num * size - S), (0, 0))
    k_BKSh, v_BKSh = (jnp.pad(jnp.swapaxes(x, 1, 2), padding) for x in (k_BSKh, v_BSKh))
    return k_BKSh, v_BKSh, size, num


def _row_blocks(x_BT, block: int):
    """[B,T,...] -> [n,B,t,...]; the rows added to fill the last block have lo = hi = 0."""
    B, T, *rest = x_BT.shape
    size = min(block, T)
    num = -(-T // size)
    x_BT = jnp.pad(x_BT, ((0, 0), (0, num * size - T), *((0, 0) for _ in rest)))
    return jnp.moveaxis(x_BT.reshape(B, num, size, *rest), 1, 0)


def _split_heads(x_BTHh, k_BSKh):
    B, T, H, h = x_BTHh.shape
    K = k_BSKh.shape[2]
    return x_BTHh.reshape(B, T, K, H // K, h)


def _query_blocks(x_BTKGh, block: int):
    """[B,T,K,G,h] -> [n,B,K,G,t,h]."""
    return _row_blocks(x_BTKGh, block).transpose(0, 1, 3, 4, 2, 5)


def _join(x_nBKGth, T: int):
    """[n,B,K,G,t,h] -> [B,T,K*G,h]."""
    n, B, K, G, t, h = x_nBKGth.shape
    return x_nBKGth.transpose(1, 0, 4, 2, 3, 5).reshape(B, n * t, K * G, h)[:, :T]
