"""What every layer needs to know of a packed batch, derived from it once: key intervals, resets, positions."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from sharding.context import prefix, shifted
from sharding.mesh import ambient_mesh, token_spec

_NEVER = jnp.iinfo(jnp.int32).max


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Structure:
    """Derived from `segment_ids`, `positions` and `span_ids`; see `structure_of`.

    Shapes:
        slot_BT: int32. Where the slot stands in its row.
        start_BT: int32. First slot of the slot's segment.
        span_start_BT, span_end_BT: int32. The slot's bidirectional span as [start, end); [t, t + 1) where there is
        none.
        keep_BT: float32. 0 where a segment begins or in padding, else 1: multiplies the recurrent state before slot t.
        positions_BT: int32.
        real_BT: bool. False in padding.
    """

    slot_BT: jax.Array
    start_BT: jax.Array
    span_start_BT: jax.Array
    span_end_BT: jax.Array
    keep_BT: jax.Array
    positions_BT: jax.Array
    real_BT: jax.Array

    def interval(self, window: int | None = None) -> tuple[jax.Array, jax.Array]:
        """Keys that slot t may attend to, as lo_BT, hi_BT with lo <= key < hi; empty in padding.

        Causal inside the segment and the `window` last keys (None: all), joined with the slot's own bidirectional
        span. Both sets contain t, so their union is one interval.
        """
        lo = self.start_BT if window is None else jnp.maximum(self.start_BT, self.slot_BT - window + 1)
        lo_BT, hi_BT = jnp.minimum(lo, self.span_start_BT), self.span_end_BT
        return lo_BT, jnp.where(self.real_BT, hi_BT, lo_BT)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Past:
    """The slots of each row that a cache has seen: how many, and the first slot and the id of the segment they end in.

    num_B, start_B, segment_B: int32.
    """

    num_B: jax.Array
    start_B: jax.Array
    segment_B: jax.Array

    def then(self, structure: Structure, segment_ids_BT: jax.Array) -> Past:
        """The past after the real slots of `structure`, which come first in every row."""
        real_B = structure.real_BT.sum(1, dtype=jnp.int32)
        last_B1 = jnp.maximum(real_B - 1, 0)[:, None]
        at_last = lambda x_BT: jnp.take_along_axis(x_BT, last_B1, axis=1)[:, 0]  # noqa: E731
        new = Past(at_last(structure.slot_BT) + 1, at_last(structure.start_BT), at_last(segment_ids_BT))
        return jax.tree.map(lambda new, old: jnp.where(real_B > 0, new, old), new, self)


def structure_of(
    segment_ids_BT: jax.Array, positions_BT: jax.Array, span_ids_BT: jax.Array, past: Past | None = None
) -> Structure:
    """Derive the structure of a packed batch (shapes as in `data.batch.Batch`).

    After a `past` a row goes on where it ended. A single slot (decoding) stands at each row's own end; longer pieces
    (prefill) begin together at the end of the longest row, so rows that ended earlier must bring padding only. A span
    must lie within one piece.
    """
    mesh = ambient_mesh()
    if mesh is None or mesh.shape["context"] == 1 or past is not None:
        return _derive(segment_ids_BT, positions_BT, span_ids_BT, past)
    spec = token_spec(mesh, *segment_ids_BT.shape)
    spread = functools.partial(_derive, axis="context")
    return jax.shard_map(spread, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(
        segment_ids_BT, positions_BT, span_ids_BT
    )


def _derive(segment_ids_BT, positions_BT, span_ids_BT, past: Past | None = None, axis: str | None = None) -> Structure:
    """`axis`: the mesh axis that holds consecutive pieces of the slots."""
    B, T = segment_ids_BT.shape
    slot_BT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
    if axis is not None:
        slot_BT += jax.lax.axis_index(axis) * T
    first_BT = _changed(segment_ids_BT, axis)
    start_B = jnp.zeros(B, jnp.int32)
    if past is not None:
        slot_BT += past.num_B[:, None] if T == 1 else past.num_B.max()
        first_BT = first_BT.at[:, 0].set(segment_ids_BT[:, 0] != past.segment_B)
        start_B = past.start_B
    in_span_BT = span_ids_BT > 0
    edge_BT = _changed(segment_ids_BT, axis) | _changed(span_ids_BT, axis)
    span_start_BT = _latest(jnp.where(edge_BT, slot_BT, 0), axis)
    next_B1 = jnp.ones_like(edge_BT[:, :1])
    if axis is not None:
        next_B1 = shifted(edge_BT[:, :1], axis, -1, True)
    last_BT = jnp.concatenate([edge_BT[:, 1:], next_B1], axis=1)
    span_end_BT = _next(jnp.where(last_BT, slot_BT + 1, _NEVER), axis)
    real_BT = segment_ids_BT > 0
    return Structure(
        slot_BT=slot_BT,
        start_BT=_latest(jnp.where(first_BT, slot_BT, start_B[:, None]), axis),
        span_start_BT=jnp.where(in_span_BT, span_start_BT, slot_BT),
        span_end_BT=jnp.where(in_span_BT, span_end_BT, slot_BT + 1),
        keep_BT=jnp.where(first_BT | ~real_BT, 0.0, 1.0),
        positions_BT=positions_BT,
        real_BT=real_BT,
    )


def _changed(ids_BT: jax.Array, axis: str | None) -> jax.Array:
    """True where a slot's id differs from the slot before it; true in slot 0."""
    first_B1 = jnp.ones_like(ids_BT[:, :1], bool)
    if axis is not None:
        first_B1 = ids_BT[:, :1] != shifted(ids_BT[:, -1:], axis, 1, -1)
    return jnp.concatenate([first_B1, ids_BT[:, 1:] != ids_BT[:, :-1]], axis=1)


def _latest(slot_BT: jax.Array, axis: str | None) -> jax.Array:
    """The largest up to each slot."""
    latest_BT = jax.lax.cummax(slot_BT, axis=1)
    if axis is None:
        return latest_BT
    return jnp.maximum(latest_BT, prefix(jnp.maximum, latest_BT[:, -1:], axis))


def _next(slot_BT: jax.Array, axis: str | None) -> jax.Array:
    """The smallest from each slot on."""
    next_BT = jax.lax.cummin(slot_BT, axis=1, reverse=True)
    if axis is None:
        return next_BT
    return jnp.minimum(next_BT, prefix(jnp.minimum, next_BT[:, :1], axis, empty=_NEVER, reverse=True))
