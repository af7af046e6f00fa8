"""Reward models from pairs of answers (InstructGPT, arXiv 2203.02155, eq. 1)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from model.model import Model
from train.objectives.loss import Loss, with_router
from train.objectives.pairs import ends, exists, halves, preference


def loss(model: Model, batch: Any, key: jax.Array) -> Loss:
    """Mean -log sigmoid(score of the better answer - score of the worse) over pairs; a score is read at the end."""
    del key
    output, segment_ids_BT = model(batch), batch.segment_ids
    score_BT = jnp.where(ends(segment_ids_BT), model.reward(output.hidden_BTD), 0.0)
    better_BP, worse_BP = halves(score_BT, segment_ids_BT)
    total, weight, metrics = preference(better_BP - worse_BP, exists(segment_ids_BT))
    return with_router(total, weight, metrics, output.router)
