"""Which head of a model acts, and the chunks that heads predict at once."""

from __future__ import annotations

from typing import Any, Literal

import jax

from data.batch import Batch
from model.config import ModelConfig
from model.heads.chunks import ChunkHead, chunk_heads, predicted_chunks

Head = ChunkHead | Literal["tokens"]


def head_of(config: ModelConfig, objective: str, *, tokens: bool) -> Head | None:
    """The head that acts after a phase with this objective, None where there is none.

    The head that the objective trained, else the one that the model has or that its local decoder learned with; without
    any, action tokens where a source of the phase has them (`tokens`).
    """
    has = chunk_heads(config)
    trained: ChunkHead | None = next((head for head in has if head == objective), None)
    if trained is not None:
        return trained
    if len(has) == 1 or (has and objective == "local_decoder"):
        return has[0]
    return "tokens" if tokens else None


def normalised_chunks(model: Any, batch: Batch, head: ChunkHead, noise_BKCA: jax.Array | None = None) -> jax.Array:
    """float32[B,C,A] before the transforms are undone; `noise_BKCA` is what a flow-matching head starts from."""
    output = model(batch, want_keys_values=head == "flow")
    return predicted_chunks(model, output, batch.values, head, noise_BKCA)[:, 0]


def noise_of(key: jax.Array, number_B: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """float32[B,*shape], standard normal: each row a function of the key and its own number, whatever the batch."""
    return jax.vmap(lambda number: jax.random.normal(jax.random.fold_in(key, number), shape))(number_B)
