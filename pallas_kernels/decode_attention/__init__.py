"""Attention of a few new queries over a cache whose slots lie in any order, for decoding."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from pallas_kernels import backend as backends
from pallas_kernels.interval_attention import check_heads

__all__ = ["decode_attention"]


def decode_attention(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    position_BS: jax.Array,
    lo_BT: jax.Array,
    hi_BT: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
    backend: backends.Backend = "auto",
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention in which query t attends to the cache slots whose position lies in [lo_t, hi_t).

    One rule for ring buffers, windows, left padding, unequal lengths and chunked steps: what a slot holds decides, not
    where it lies. Scores and softmax are float32. Query head i reads key/value head i // (H / K). For inference only.

    Args:
        q_BTHh: queries; T is 1 in plain decoding, a few in speculative or chunked steps.
        k_BSKh: cached keys in S slots; K divides H.
        v_BSKh: cached values.
        position_BS: int32, the position of what each slot holds, negative for an empty slot.
        lo_BT: int32, first position that each query sees. `lo >= hi` is a row without keys.
        hi_BT: int32, one past the last position that each query sees.
        scale: what the scores are multiplied by, a Python float.
        softcap: if given, scores become `softcap * tanh(score / softcap)` (Gemma 2, arXiv 2408.00118).
        backend: "auto" or the one that must be used, see `pallas_kernels.backend.select`.

    Returns:
        out_BTHh in the dtype of q, and lse_BTH float32, the natural logsumexp of each row's scores. A row that sees no
        slot has out 0 and lse -1e30.

    Raises:
        ValueError: shapes that do not fit together, a forced backend that cannot serve the call, or a gradient.
    """
    _check(q_BTHh, k_BSKh, v_BSKh, position_BS, lo_BT, hi_BT)
    name = backends.select("decode_attention", backend, q_BTHh, k_BSKh, softcap=softcap)
    position_BS, lo_BT, hi_BT = (x.astype(jnp.int32) for x in (position_BS, lo_BT, hi_BT))
    lo_BT = jnp.maximum(lo_BT, 0)  # else an empty slot, at -1, could lie in the interval
    return _attend(q_BTHh, k_BSKh, v_BSKh, position_BS, lo_BT, hi_BT, name, float(scale), softcap)


@functools.partial(jax.custom_jvp, nondiff_argnums=(6, 7, 8))
def _attend(q, k, v, position, lo, hi, name, scale, softcap):
    forward = backends.module("decode_attention", name).forward
    return forward(q, k, v, position, lo, hi, scale=scale, softcap=softcap)


@_attend.defjvp
def _attend_tangents(*_):
    raise ValueError(
        "decode_attention: got a gradient to compute; allowed is inference only, since a cache is not trained through. "
        "Use interval_attention, which is differentiable."
    )


def _check(q, k, v, position, lo, hi):
    check_heads(q, k, v)
    for name, x, shape, what in (
        ("position", position, k.shape[:2], "one position per slot, negative where it is empty"),
        ("lo", lo, q.shape[:2], "one interval per query"),
        ("hi", hi, q.shape[:2], "one interval per query"),
    ):
        if x.shape != shape or not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(
                f"{name}: got {x.dtype}{list(x.shape)}; allowed is int32{list(shape)}, {what}. "
                "Broadcast it over the batch."
            )
