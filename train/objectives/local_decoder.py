"""Behaviour cloning of the local decoder: old chunk and latent, fresh proprioception, the action of now.

The backbone looks at frame t; the decoder is asked at t + d for every delay d that the batch has actions for, since one
look serves them all. That is the expectation over a uniformly drawn delay at the price of one pass of the backbone.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from model.heads.chunks import chunk_heads, guide_of, predicted_chunks
from model.model import Model
from train.objectives.loss import Loss, with_router


def loss(model: Model, batch: Any, key: jax.Array) -> Loss:
    """Mean absolute error over the actions that exist. The chunk itself is not trained through.

    Logged besides: `error/planned`, the error of the chunk alone, which the decoder has to beat.
    """
    robot, head, values = model.config.robot, chunk_heads(model.config)[0], batch.values
    assert robot is not None
    output = model(batch, want_keys_values=head == "flow")
    B, K, N, A = values["action"].shape
    noise_BKCA = jax.random.normal(key, (B, K, robot.chunk, A)) if head == "flow" else None
    chunk_BKCA = jax.lax.stop_gradient(predicted_chunks(model, output, values, head, noise_BKCA))
    guide = guide_of(output, values, chunk_BKCA)

    delay_BKN = jnp.broadcast_to(jnp.arange(N, dtype=jnp.int32), (B, K, N))
    mask_BKNA = values["action_mask"] & (values["action_slot"] >= 0)[:, :, None, None]
    action_BKNA = jnp.where(mask_BKNA, values["action"], 0.0)
    decoded_BKNA = model.local_decoder(guide, delay_BKN, values["chunk_proprio"])
    planned_BKNA = model.local_decoder.planned_actions(guide, delay_BKN)
    error = lambda found_BKNA: jnp.sum(jnp.abs(found_BKNA - action_BKNA) * mask_BKNA)  # noqa: E731
    total, weight = error(decoded_BKNA), jnp.sum(mask_BKNA).astype(jnp.float32)
    metrics = {"loss/action": (total, weight), "error/planned": (error(planned_BKNA), weight)}
    return with_router(total, weight, metrics, output.router)
