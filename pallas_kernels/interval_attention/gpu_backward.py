"""Gradients of interval attention on Hopper, from two kernels without atomics (arXiv 2307.08691, algorithm 2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pallas_kernels.interval_attention import gpu_dkv, gpu_dq
from pallas_kernels.interval_attention import gpu_tiles as gpu

K_TILE = 128  # a multiple of the tiles of keys of both kernels


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
    """The gradients of q, k and v, see `reference.backward`."""
    T, S = q_BTHh.shape[1], k_BSKh.shape[1]
    lo_BT, hi_BT = gpu.intervals(lo_BT, hi_BT, S, gpu_dq.Q_TILE)
    # d score = p (d p - delta): a gradient for lse is one more term of the row constant.
    delta_BTH = jnp.einsum("BTHh,BTHh->BTH", out_BTHh, d_out_BTHh, preferred_element_type=jnp.float32) - d_lse_BTH
    lse2_BTH, delta_BTH, q_BTHh, d_out_BTHh = (
        gpu.pad(x, 1, gpu_dq.Q_TILE) for x in (lse_BTH * gpu.LOG2_E, delta_BTH, q_BTHh, d_out_BTHh)
    )
    # The exponential of a score less this is exactly 0: rows without keys need no mask in inner tiles.
    lse2_BTH = jnp.where((lo_BT < hi_BT)[..., None], lse2_BTH, 1e30)
    k_BSKh, v_BSKh = (gpu.pad(x, 1, K_TILE) for x in (k_BSKh, v_BSKh))
    lse2_BHT, delta_BHT = lse2_BTH.swapaxes(1, 2), delta_BTH.swapaxes(1, 2)
    args = (q_BTHh, k_BSKh, v_BSKh, d_out_BTHh.astype(q_BTHh.dtype), lse2_BHT, delta_BHT, lo_BT, hi_BT)
    d_q_BTHh = gpu_dq.d_query(*args, scale=scale, softcap=softcap)
    d_k_BSKh, d_v_BSKh = gpu_dkv.d_key_value(*args, scale=scale, softcap=softcap)
    return d_q_BTHh[:, :T], d_k_BSKh[:, :S], d_v_BSKh[:, :S]
