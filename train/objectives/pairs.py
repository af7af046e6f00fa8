"""Pairs in packed rows: segments 2p + 1 and 2p + 2 of a row are the better and the worse half of its pair p."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from train.objectives.loss import Ratio


def halves(value_BT: jax.Array, segment_ids_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums over the slots of both halves of every pair, [B,P] each; 0 where a row has fewer pairs than P = T // 2."""
    pairs = value_BT.shape[1] // 2
    sums = lambda value_T, id_T: jax.ops.segment_sum(value_T, id_T, num_segments=2 * pairs + 1)  # noqa: E731
    sums_BP2 = jax.vmap(sums)(value_BT, segment_ids_BT)[:, 1:].reshape(-1, pairs, 2)
    return sums_BP2[..., 0], sums_BP2[..., 1]


def ends(segment_ids_BT: jax.Array) -> jax.Array:
    """bool[B,T]: the last slot of each segment."""
    following_BT = jnp.roll(segment_ids_BT, -1, axis=1).at[:, -1].set(0)
    return (segment_ids_BT > 0) & (segment_ids_BT != following_BT)


def exists(segment_ids_BT: jax.Array) -> jax.Array:
    """float32[B,P]: 1 for a pair that is there."""
    better_BP, worse_BP = halves(ends(segment_ids_BT).astype(jnp.float32), segment_ids_BT)
    return better_BP * worse_BP


def preference(margin_BP: jax.Array, exists_BP: jax.Array) -> tuple[jax.Array, jax.Array, dict[str, Ratio]]:
    """Total and weight of -log sigmoid(margin), the Bradley-Terry likelihood of the labels, and what is logged."""
    weight = jnp.sum(exists_BP)
    total = jnp.sum(jax.nn.softplus(-margin_BP) * exists_BP)
    metrics = {
        "loss/preference": (total, weight),
        "accuracy/preference": (jnp.sum((margin_BP > 0) * exists_BP), weight),
        "margin": (jnp.sum(margin_BP * exists_BP), weight),
    }
    return total, weight, metrics
