"""Next-token cross-entropy over every modality that is tokens: text, discrete actions, points."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from data.batch import targets
from model.heads.tokens import token_nll
from model.model import Model
from train.objectives.loss import Loss, Ratio, with_router

KINDS_WITH_TARGETS = {"text": 1, "action": 4, "point": 5, "name": 6}  # of data.batch.KINDS


def loss(model: Model, batch: Any, key: jax.Array) -> Loss:
    """Weighted mean of -log p(token_t | slots before t in its segment); weights are `batch.loss_weights`."""
    del key
    output = model(batch)
    target_BT, weight_BT = targets(batch)
    nll_BT = token_nll(model, output.hidden_BTD, target_BT)
    return with_router(
        jnp.sum(weight_BT * nll_BT), jnp.sum(weight_BT), by_kind("loss", nll_BT, batch, weight_BT), output.router
    )


def by_kind(name: str, value_BT: jax.Array, batch: Any, weight_BT: jax.Array) -> dict[str, Ratio]:
    """`name/text`, `name/action`, ...: the unweighted mean of value over the targets of each kind."""
    kind_BT = jnp.roll(batch.kinds, -1, axis=1)
    metrics = {}
    for kind, index in KINDS_WITH_TARGETS.items():
        counted_BT = ((kind_BT == index) & (weight_BT > 0)).astype(jnp.float32)
        metrics[f"{name}/{kind}"] = (jnp.sum(counted_BT * value_BT), jnp.sum(counted_BT))
    return metrics
