"""The one sequence contract: every mixer, objective, cache and kernel reads these fields and nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

Array = Any  # np.ndarray on the host, jax.Array on a device

PADDING_SEGMENT = 0
NO_SLOT = -1  # an unused entry of `media` or `values`


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Packed sequences of B rows and T slots. A segment is one packed document or episode example.

    Shapes (B rows, T slots, M images a row, K vectors a row, C chunk steps, A action or proprioception width):
        tokens: int32[B,T]. Vocabulary ids; the placeholder id where an embedder's output goes.
        segment_ids: int32[B,T]. 0 = padding; equal non-zero ids = one segment. Ids rise from 1 along a row.
        positions: int32[B,T]. Position inside the segment, 0-based; 0 in padding.
        span_ids: int32[B,T]. 0 = causal; equal non-zero ids = one bidirectional span (an image); unique in a row.
        loss_weights: float32[B,T]. Weight of slot t *as a target*, predicted from slot t-1 of the same segment.
        kinds: int32[B,T]. What slot t is: an index into `KINDS`; only for per-modality metrics.
        media: {"image": uint8[B,M,H,W,3], "image_slot": int32[B,M] first slot of the image or NO_SLOT}.
        values: continuous vectors and the slots they fill, all padded to the widest embodiment:
            "proprio": float32[B,K,A], "proprio_slot": int32[B,K] or NO_SLOT,
            "action": float32[B,K,C,A] chunk predicted from slot "action_slot": int32[B,K] or NO_SLOT,
            "action_mask": bool[B,K,C,A] true where an action exists (never a loss elsewhere),
            "chunk_proprio": float32[B,K,C,A] what the robot feels at each step of the chunk, for local decoders only,
            "embodiment": int32[B,K] index of the robot that vector k belongs to.
            "teacher_...": what a store keeps of a teacher at every slot, see `train.objectives.distill_entries`.
    `media` and `values` are empty dictionaries where a model takes none.
    """

    tokens: Array
    segment_ids: Array
    positions: Array
    span_ids: Array
    loss_weights: Array
    kinds: Array
    media: dict[str, Array]
    values: dict[str, Array]


KINDS = ("padding", "text", "image", "proprio", "action", "point", "name")


def targets(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(target_BT, weight_BT) of what slot t predicts: the token of slot t + 1 if both are of one segment, else weight
    0."""
    target_BT = jnp.roll(batch.tokens, -1, axis=1)
    same_BT = (batch.segment_ids == jnp.roll(batch.segment_ids, -1, axis=1)).at[:, -1].set(False)
    weight_BT = jnp.where(same_BT & (batch.segment_ids > 0), jnp.roll(batch.loss_weights, -1, axis=1), 0.0)
    return target_BT, weight_BT
