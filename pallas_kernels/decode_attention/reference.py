"""Decode attention in plain JAX, all scores of a step at once, and which tiles of a cache hold what is wanted."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Both finite, so that rows without keys stay free of NaN; a masked score has weight exactly 0 even in such a row.
EMPTY_LSE = -1e30
MASKED_SCORE = -2e30
_TINY = 1e-37


def forward(q_BTHh, k_BSKh, v_BSKh, position_BS, lo_BT, hi_BT, *, scale: float, softcap: float | None):
    """Return (out_BTHh, lse_BTH) from a float32[B,K,G,T,S] array of scores, where G = H / K heads share a key."""
    B, T, H, h = q_BTHh.shape
    K = k_BSKh.shape[2]
    q_BTKGh = q_BTHh.reshape(B, T, K, H // K, h)
    s_BKGTS = jnp.einsum("BTKGh,BSKh->BKGTS", q_BTKGh, k_BSKh, preferred_element_type=jnp.float32) * scale
    if softcap is not None:
        s_BKGTS = softcap * jnp.tanh(s_BKGTS / softcap)
    position_B1S = position_BS[:, None]
    seen_BTS = (lo_BT[..., None] <= position_B1S) & (position_B1S < hi_BT[..., None])
    s_BKGTS = jnp.where(seen_BTS[:, None, None], s_BKGTS, MASKED_SCORE)
    peak_BKGT = jnp.maximum(s_BKGTS.max(-1), EMPTY_LSE)
    p_BKGTS = jnp.exp(s_BKGTS - peak_BKGT[..., None])
    total_BKGT = jnp.maximum(p_BKGTS.sum(-1), _TINY)
    out_BKGTh = jnp.einsum(
        "BKGTS,BSKh->BKGTh", p_BKGTS.astype(v_BSKh.dtype), v_BSKh, preferred_element_type=jnp.float32
    )
    out_BKGTh, lse_BKGT = out_BKGTh / total_BKGT[..., None], peak_BKGT + jnp.log(total_BKGT)
    out_BTKGh, lse_BTKG = jnp.moveaxis(out_BKGTh, 3, 1), jnp.moveaxis(lse_BKGT, 3, 1)
    return out_BTKGh.reshape(q_BTHh.shape).astype(q_BTHh.dtype), lse_BTKG.reshape(B, T, H)


def wanted_tiles(position_BS: jax.Array, lo_BT: jax.Array, hi_BT: jax.Array, tile: int) -> jax.Array:
    """int32[B,2], in units of tiles of slots: what any row of a sequence sees lies in the tiles [first, end).

    Reads 4 bytes per slot, less than 1 % of a cache; it saves a kernel the part of a cache that is not yet filled.
    """
    some_BT = lo_BT < hi_BT
    least_B1 = jnp.where(some_BT, lo_BT, jnp.iinfo(jnp.int32).max).min(1, keepdims=True)
    most_B1 = jnp.where(some_BT, hi_BT, 0).max(1, keepdims=True)
    wanted_BS = (least_B1 <= position_BS) & (position_BS < most_B1)
    tile_S = jnp.arange(position_BS.shape[1], dtype=jnp.int32) // tile
    end_B = jnp.where(wanted_BS, tile_S + 1, 0).max(1)
    first_B = jnp.where(wanted_BS, tile_S, position_BS.shape[1]).min(1)
    return jnp.stack([jnp.minimum(first_B, end_B), end_B], axis=1)
