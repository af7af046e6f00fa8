"""Behaviour cloning through parallel per-dimension bins: cross-entropy of each action's bin."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from model.model import Model
from train.objectives.loss import Loss, with_router


def loss(model: Model, batch: Any, key: jax.Array) -> Loss:
    """Mean -log p(bin of action) over the actions that exist (`action_mask`)."""
    del key
    output, values = model(batch), batch.values
    slot_BK = jnp.maximum(values["action_slot"], 0)
    hidden_BKD = jnp.take_along_axis(output.hidden_BTD, slot_BK[..., None], axis=1)
    log_p = jax.nn.log_softmax(model.bins.logits(hidden_BKD))
    nll_BKCA = -jnp.take_along_axis(log_p, model.bins.bin_of(values["action"])[..., None], axis=-1)[..., 0]
    mask_BKCA = values["action_mask"] & (values["action_slot"] >= 0)[:, :, None, None]
    error_BKCA = jnp.abs(model.bins.predict(hidden_BKD) - values["action"])
    total, weight = jnp.sum(nll_BKCA * mask_BKCA), jnp.sum(mask_BKCA).astype(jnp.float32)
    metrics = {"loss/action": (total, weight), "error/action": (jnp.sum(error_BKCA * mask_BKCA), weight)}
    return with_router(total, weight, metrics, output.router)
