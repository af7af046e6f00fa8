"""Behaviour cloning through regression: mean absolute error of whole chunks (OpenVLA-OFT, arXiv 2502.19645)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from model.model import Model
from train.objectives.loss import Loss, with_router


def loss(model: Model, batch: Any, key: jax.Array) -> Loss:
    """Mean |predicted - action| over the actions that exist (`action_mask`)."""
    del key
    output, values = model(batch), batch.values
    slot_BK1 = jnp.maximum(values["action_slot"], 0)[..., None]
    hidden_BKD = jnp.take_along_axis(output.hidden_BTD, slot_BK1, axis=1)
    predicted_BKCA = model.l1.predict(hidden_BKD, values["proprio"], values["embodiment"])
    mask_BKCA = values["action_mask"] & (values["action_slot"] >= 0)[:, :, None, None]
    error_BKCA = jnp.where(mask_BKCA, jnp.abs(predicted_BKCA - values["action"]), 0.0)
    total, weight = jnp.sum(error_BKCA), jnp.sum(mask_BKCA).astype(jnp.float32)
    return with_router(total, weight, {"loss/action": (total, weight)}, output.router)
