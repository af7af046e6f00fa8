"""Attention on a mesh: rows over the batch axes, heads over `tensor`, slots over `context`.

Everything runs inside `jax.shard_map` over all axes, where each shard calls the kernel of its platform. Without a mesh
of several devices these functions are the kernel's call and nothing else.

Local layers take a halo of keys from their neighbours, global ones pass keys and values round a ring (Ring Attention,
arXiv 2310.01889) in zigzag order (arXiv 2311.09431), blocks merged by their logsumexp.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from model.structure import Structure
from pallas_kernels.interval_attention import EMPTY_LSE, interval_attention, interval_attention_gradient, merge
from sharding.context import from_zigzag, halo, ring, to_zigzag, zigzag_place
from sharding.mesh import ambient_mesh, token_spec

AXIS = "context"


def attend(
    q_BTHh: jax.Array,
    k_BTKh: jax.Array,
    v_BTKh: jax.Array,
    structure: Structure,
    window: int | None,
    longest_span: int = 1,
    **options: Any,
) -> tuple[jax.Array, jax.Array]:
    """(out_BTHh, lse_BTH) of `interval_attention` over the structure's intervals.

    Args:
        window: keys a query sees, itself included; None: all of its segment.
        longest_span: most slots that see each other in both directions. With a window, rows of a longer span whose
            keys lie beyond the halo come out as NaN rather than without them.
        options: scale, softcap and backend of `interval_attention`.

    Raises:
        ValueError: rows or slots that the mesh does not divide.
    """
    lo_BT, hi_BT = structure.interval(window)
    mesh = ambient_mesh()
    if mesh is None:
        return interval_attention(q_BTHh, k_BTKh, v_BTKh, lo_BT, hi_BT, **options)
    T, n = lo_BT.shape[1], mesh.shape[AXIS]
    slots = token_spec(mesh, *lo_BT.shape)
    heads = PartitionSpec(*slots, "tensor")
    if n == 1:
        local = functools.partial(interval_attention, **options)
    elif window is not None and (width := _halo_width(window, longest_span))[0] + width[1] < T - T // n:
        local = functools.partial(_halo_attention, before=width[0], after=width[1], **options)
    else:
        if T % (2 * n):
            raise ValueError(
                f"a row of {T} slots is not a multiple of 2 * mesh.context = {2 * n}, as attention to all keys of a "
                "row needs; change the pipeline's sequence length or this axis"
            )
        local = functools.partial(_ring_attention, options=tuple(options.items()))
    spread = jax.shard_map(
        local, in_specs=(heads, heads, heads, slots, slots), out_specs=(heads, heads), check_vma=False
    )
    return spread(q_BTHh, k_BTKh, v_BTKh, lo_BT, hi_BT)


def attend_from_rows(
    q_BSHh: jax.Array, k_BTKh: jax.Array, v_BTKh: jax.Array, lo_BS: jax.Array, hi_BS: jax.Array, **options: Any
) -> tuple[jax.Array, jax.Array]:
    """`interval_attention` of few queries, which every context shard has, to keys that are spread over them.

    Each shard attends to the keys it holds; outputs are summed by their logsumexp.
    """
    mesh = ambient_mesh()
    if mesh is None:
        return interval_attention(q_BSHh, k_BTKh, v_BTKh, lo_BS, hi_BS, **options)
    slots = token_spec(mesh, *k_BTKh.shape[:2])
    few, heads = PartitionSpec(slots[0], None, "tensor"), PartitionSpec(*slots, "tensor")

    def local(q_BSHh, k_BTKh, v_BTKh, lo_BS, hi_BS):
        first = lax.axis_index(AXIS) * k_BTKh.shape[1]
        out_BSHh, lse_BSH = interval_attention(q_BSHh, k_BTKh, v_BTKh, lo_BS - first, hi_BS - first, **options)
        if mesh.shape[AXIS] == 1:
            return out_BSHh, lse_BSH
        peak_BSH = lax.pmax(lax.stop_gradient(lse_BSH), AXIS)
        weight_BSH = jnp.exp(lse_BSH - peak_BSH)
        total_BSH, sum_BSHh = lax.psum((weight_BSH, weight_BSH[..., None] * out_BSHh.astype(jnp.float32)), AXIS)
        return (sum_BSHh / total_BSH[..., None]).astype(out_BSHh.dtype), peak_BSH + jnp.log(total_BSH)

    rows = PartitionSpec(slots[0])
    spread = jax.shard_map(local, in_specs=(few, heads, heads, rows, rows), out_specs=(few, few), check_vma=False)
    return spread(q_BSHh, k_BTKh, v_BTKh, lo_BS, hi_BS)


def _halo_width(window: int, longest_span: int) -> tuple[int, int]:
    """Keys before and after its own that a shard of queries can need."""
    return max(window, longest_span) - 1, longest_span - 1


def _halo_attention(q_BTHh, k_BTKh, v_BTKh, lo_BT, hi_BT, *, before: int, after: int, **options):
    """Queries of a shard over its own keys, `before` of its left neighbours and `after` of its right ones."""
    k_BSKh, v_BSKh = (halo(x, AXIS, before=before, after=after) for x in (k_BTKh, v_BTKh))
    first = lax.axis_index(AXIS) * q_BTHh.shape[1] - before
    lo_BT, hi_BT = lo_BT - first, hi_BT - first
    out_BTHh, lse_BTH = interval_attention(q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, **options)
    beyond_BT = (lo_BT < hi_BT) & ((lo_BT < 0) | (hi_BT > k_BSKh.shape[1]))
    return jnp.where(beyond_BT[..., None, None], jnp.nan, out_BTHh), lse_BTH


def _ring_attention(q_BTHh, k_BTKh, v_BTKh, lo_BT, hi_BT, *, options):
    """Every query meets the keys of all shards, which travel round the ring.

    The sequence is laid out in zigzag for it and back: that moves q, k, v and out once each, about one shard of them,
    where the ring moves n - 1 shards of k and v; in return no shard waits for another under a causal mask.
    """
    arrays = (to_zigzag(x, AXIS) for x in (q_BTHh, k_BTKh, v_BTKh, lo_BT, hi_BT))
    out_BTHh, lse_BTH = _ring(*arrays, options)
    return from_zigzag(out_BTHh, AXIS), from_zigzag(lse_BTH, AXIS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _ring(q, k, v, lo, hi, options):
    """Attention in zigzag order; blocks of keys that no query of the shard sees cost their journey only."""

    def visit(carry, block, source):
        k_here, v_here = block
        lo_here, hi_here = _within(source, k_here, lo, hi)

        def add():
            out, lse = interval_attention(q, k_here, v_here, lo_here, hi_here, **dict(options))
            return merge([carry[0], out], [carry[1], lse])

        return lax.cond(jnp.any(lo_here < hi_here), add, lambda: carry), ()

    nothing = (jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:3], EMPTY_LSE, jnp.float32))
    (out, lse), _ = ring(visit, (k, v), nothing, AXIS)
    return out.astype(q.dtype), lse


def _ring_forward(q, k, v, lo, hi, options):
    out, lse = _ring(q, k, v, lo, hi, options)
    return (out, lse), (q, k, v, lo, hi, out, lse)


def _ring_backward(options, residuals, cotangents):
    """The same journey again: probabilities come from the final logsumexp, gradients of k and v travel with them."""
    (q, k, v, lo, hi, out, lse), (d_out, d_lse) = residuals, cotangents

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (k, v))

    def visit(d_q, block, source):
        k_here, v_here = block
        lo_here, hi_here = _within(source, k_here, lo, hi)

        def add():
            d_q_here, *d_block = interval_attention_gradient(
                q, k_here, v_here, lo_here, hi_here, out, lse, d_out, d_lse, **dict(options)
            )
            return d_q + d_q_here.astype(jnp.float32), tuple(x.astype(jnp.float32) for x in d_block)

        return lax.cond(jnp.any(lo_here < hi_here), add, lambda: (d_q, nothing))

    d_q, (d_k, d_v) = ring(visit, (k, v), jnp.zeros(q.shape, jnp.float32), AXIS, nothing)
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype), None, None


_ring.defvjp(_ring_forward, _ring_backward)


def _within(source, k_BSKh, lo_BT, hi_BT):
    """The intervals in keys of the shard `source`."""
    place = lambda x: zigzag_place(x, source, k_BSKh.shape[1], lax.axis_size(AXIS))  # noqa: E731
    return place(lo_BT), place(hi_BT)
