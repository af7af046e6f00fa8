"""Attention over one key interval per query row: causal, windowed, packed, prefix and span masks in O(T) memory."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels import backend as backends
from pallas_kernels.interval_attention.reference import EMPTY_LSE

__all__ = ["EMPTY_LSE", "apply_sink", "interval_attention", "interval_attention_gradient", "merge"]

# Tiles of 128 x 128 stay in a CPU core's cache: causal, T = 512, float32 took 28 ms, one tile of 512 x 512 126 ms.
DEFAULT_BLOCK = 128


def interval_attention(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    lo_BT: jax.Array,
    hi_BT: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
    block: int = DEFAULT_BLOCK,
    backend: backends.Backend = "auto",
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention in which query t attends to the keys [lo_t, hi_t).

    Scores and softmax are float32 whatever the input dtype. Query head i reads key/value head i // (H / K).

    Args:
        q_BTHh: queries. T and S may differ.
        k_BSKh: keys; K divides H.
        v_BSKh: values.
        lo_BT: int32, first key of each row. Ends outside [0, S] are clipped; `lo >= hi` is a row without keys.
        hi_BT: int32, one past the last key of each row.
        scale: what the scores are multiplied by, a Python float above 0.
        softcap: if given, scores become `softcap * tanh(score / softcap)` (Gemma 2, arXiv 2408.00118).
        block: queries and keys per tile of the reference, at least 1; one tile is used where it covers them all. The
            kernels have tiles of their own.
        backend: "auto" or the one that must be used, see `pallas_kernels.backend.select`.

    Returns:
        out_BTHh in the dtype of q, and lse_BTH float32, the natural logsumexp of each row's scores. A row without keys
        has out 0, lse -1e30 and no gradient. Both outputs are differentiable in q, k and v (FlashAttention-2, arXiv
        2307.08691, section 3.1), by reverse mode only.

    Raises:
        ValueError: shapes that do not fit together, a scale of 0 or below, or a forced backend that cannot
            serve the call.
    """
    _check(q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, block)
    name, options = _select(q_BTHh, k_BSKh, scale, softcap, block, backend)
    return _attend(q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, name, tuple(options.items()))


def interval_attention_gradient(
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
    softcap: float | None = None,
    block: int = DEFAULT_BLOCK,
    backend: backends.Backend = "auto",
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What some of the keys contribute to the gradient of q, and their own gradients of k and v.

    `out`, `lse` and the gradients of both are those of attention over all keys, of which k and v are a part: so a ring
    of devices takes the gradient one part after another. All else as in `interval_attention`.
    """
    _check(q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, block)
    name, options = _select(q_BTHh, k_BSKh, scale, softcap, block, backend)
    rows = (out_BTHh, lse_BTH, d_out_BTHh, d_lse_BTH)
    return backends.module("interval_attention", name).backward(q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, *rows, **options)


def merge(outs: Sequence[jax.Array], lses: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Attention over the union of disjoint key sets from (out_BTHh, lse_BTH) over each set; differentiable."""
    lses_iBTH = jnp.stack(list(lses))
    weights_iBTH1 = jax.nn.softmax(lses_iBTH, axis=0)[..., None]
    out_BTHh = sum(w * o.astype(jnp.float32) for w, o in zip(weights_iBTH1, outs, strict=True))
    return jnp.asarray(out_BTHh).astype(outs[0].dtype), jax.nn.logsumexp(lses_iBTH, axis=0)


def apply_sink(out_BTHh: jax.Array, lse_BTH: jax.Array, sink_H: jax.Array) -> jax.Array:
    """Add to every row a key of score `sink_H` and value 0, which takes attention that no real key deserves.

    Follows arXiv 2309.17453 with the learned score per head of GPT-OSS (arXiv 2508.10925).
    """
    return (out_BTHh * jax.nn.sigmoid(lse_BTH - sink_H.astype(jnp.float32))[..., None]).astype(out_BTHh.dtype)


def _select(q_BTHh, k_BSKh, scale, softcap, block, backend) -> tuple[str, dict[str, Any]]:
    """The backend and the options it takes."""
    if scale <= 0:
        raise ValueError(f"scale: got {scale}; allowed is above 0. Negate the queries for negative scores.")
    name = backends.select("interval_attention", backend, q_BTHh, k_BSKh, softcap=softcap)
    return name, {"scale": float(scale), "softcap": softcap} | ({"block": block} if name == "reference" else {})


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(q, k, v, lo, hi, name, options):
    return backends.module("interval_attention", name).forward(q, k, v, lo, hi, **dict(options))


def _attend_forward(q, k, v, lo, hi, name, options):
    out, lse = _attend(q, k, v, lo, hi, name, options)
    return (out, lse), (q, k, v, lo, hi, out, lse)


def _attend_backward(name, options, residuals, cotangents):
    kernels = backends.module("interval_attention", name)
    return (*kernels.backward(*residuals, *cotangents, **dict(options)), None, None)  # lo and hi are integers


_attend.defvjp(_attend_forward, _attend_backward)


def check_heads(q: jax.Array, k: jax.Array, v: jax.Array) -> None:
    """Raises ValueError unless q_BTHh, k_BSKh and v_BSKh fit together."""
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"q, k, v: got {q.shape}, {k.shape}, {v.shape}; allowed are [B,T,H,h], [B,S,K,h], [B,S,K,h] with equal "
            "B and h. Reshape the projections before the call."
        )
    if q.shape[2] % k.shape[2]:
        raise ValueError(
            f"k: got {k.shape[2]} key/value heads for {q.shape[2]} query heads; allowed is a divisor of the query "
            "heads. Change the number of key/value heads."
        )


def _check(q, k, v, lo, hi, block):
    check_heads(q, k, v)
    for name, bound in (("lo", lo), ("hi", hi)):
        if bound.shape != q.shape[:2] or not jnp.issubdtype(bound.dtype, jnp.integer):
            raise ValueError(
                f"{name}: got {bound.dtype}{list(bound.shape)}; allowed is int32{list(q.shape[:2])}, one interval per "
                "query. Broadcast it over the batch."
            )
    if block < 1:
        raise ValueError(f"block: got {block}; allowed is 1 or more. Leave it out for the default, {DEFAULT_BLOCK}.")
