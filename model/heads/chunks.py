"""The chunk that a model predicts at once, by whichever of its heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.heads.local_decoder import Guide

ChunkHead = Literal["flow", "bins", "l1"]
CHUNK_HEADS: tuple[ChunkHead, ...] = get_args(ChunkHead)


def chunk_heads(config: ModelConfig) -> list[ChunkHead]:
    """The heads of a model that predict chunks."""
    return [head for head in CHUNK_HEADS if getattr(config, head) is not None]


def predicted_chunks(
    model: Any,
    output: Any,
    values: Mapping[str, jax.Array],
    head: ChunkHead,
    noise_BKCA: jax.Array | None = None,
) -> jax.Array:
    """float32[B,K,C,A], normalised, and zero in the dims that a robot does not have.

    output: of `model`; with keys and values for the flow head, which starts from `noise_BKCA`.
    """
    dims_BK1A = values["action_mask"][:, :, :1]
    if head == "flow":
        assert noise_BKCA is not None
        return model.flow.sample(noise_BKCA * dims_BK1A, values["embodiment"], model.action_prefix(output, values))
    hidden_BKD = hidden_at_action(output, values)
    if head == "bins":
        return model.bins.predict(hidden_BKD) * dims_BK1A
    return model.l1.predict(hidden_BKD, values["proprio"], values["embodiment"]) * dims_BK1A


def guide_of(output: Any, values: Mapping[str, jax.Array], chunk_BKCA: jax.Array) -> Guide:
    """What this look of the backbone leaves for the local decoder."""
    return Guide(chunk_BKCA, hidden_at_action(output, values), values["proprio"], values["embodiment"])


def hidden_at_action(output: Any, values: Mapping[str, jax.Array]) -> jax.Array:
    """hidden_BKD of the slots that chunks are predicted from."""
    slot_BK1 = jnp.maximum(values["action_slot"], 0)[..., None]
    return jnp.take_along_axis(output.hidden_BTD, slot_BK1, axis=1)
