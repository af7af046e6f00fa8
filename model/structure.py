"""What every layer needs to know of a packed batch, derived from it once: key intervals, resets, positions."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Structure:
    """Derived from `segment_ids`, `positions` and `span_ids`; see `structure_of`.

    Shapes:
        start_BT: int32. First slot of the slot's segment.
        span_start_BT, span_end_BT: int32. The slot's bidirectional span as [start, end); [t, t + 1) where there is
        none.
        keep_BT: float32. 0 where a segment begins or in padding, else 1: multiplies the recurrent state before slot t.
        positions_BT: int32.
        real_BT: bool. False in padding.
    """

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
        slot_T = jnp.arange(self.start_BT.shape[1], dtype=jnp.int32)
        lo = self.start_BT if window is None else jnp.maximum(self.start_BT, slot_T - window + 1)
        lo_BT, hi_BT = jnp.minimum(lo, self.span_start_BT), self.span_end_BT
        return lo_BT, jnp.where(self.real_BT, hi_BT, lo_BT)


def structure_of(segment_ids_BT: jax.Array, positions_BT: jax.Array, span_ids_BT: jax.Array) -> Structure:
    """Derive the structure of a packed batch (shapes as in `data.batch.Batch`)."""
    slot_BT = jnp.broadcast_to(jnp.arange(segment_ids_BT.shape[1], dtype=jnp.int32), segment_ids_BT.shape)
    first_BT = _changed(segment_ids_BT)
    in_span_BT = span_ids_BT > 0
    edge_BT = first_BT | _changed(span_ids_BT)
    span_start_BT = jax.lax.cummax(jnp.where(edge_BT, slot_BT, 0), axis=1)
    last_BT = jnp.concatenate([edge_BT[:, 1:], jnp.ones_like(edge_BT[:, :1])], axis=1)
    span_end_BT = jax.lax.cummin(jnp.where(last_BT, slot_BT + 1, slot_BT.shape[1]), axis=1, reverse=True)
    real_BT = segment_ids_BT > 0
    return Structure(
        start_BT=jax.lax.cummax(jnp.where(first_BT, slot_BT, 0), axis=1),
        span_start_BT=jnp.where(in_span_BT, span_start_BT, slot_BT),
        span_end_BT=jnp.where(in_span_BT, span_end_BT, slot_BT + 1),
        keep_BT=jnp.where(first_BT | ~real_BT, 0.0, 1.0),
        positions_BT=positions_BT,
        real_BT=real_BT,
    )


def _changed(ids_BT: jax.Array) -> jax.Array:
    """True where a slot's id differs from the slot before it; true in slot 0."""
    return jnp.concatenate([jnp.ones_like(ids_BT[:, :1], bool), ids_BT[:, 1:] != ids_BT[:, :-1]], axis=1)
