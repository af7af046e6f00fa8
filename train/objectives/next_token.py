"""Next-token cross-entropy over every modality that is tokens: text, discrete actions, points."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from model.heads.tokens import blockwise
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


def targets(batch: Any) -> tuple[jax.Array, jax.Array]:
    """(target_BT, weight_BT) of what slot t predicts: the token of slot t + 1 if both are of one segment, else weight
    0."""
    target_BT = jnp.roll(batch.tokens, -1, axis=1)
    same_BT = (batch.segment_ids == jnp.roll(batch.segment_ids, -1, axis=1)).at[:, -1].set(False)
    weight_BT = jnp.where(same_BT & (batch.segment_ids > 0), jnp.roll(batch.loss_weights, -1, axis=1), 0.0)
    return target_BT, weight_BT


def token_nll(model: Model, hidden_BTD: jax.Array, target_BT: jax.Array) -> jax.Array:
    """-log p(target) in nats, float32[B,T], without [B,T,V] logits."""

    def nll(hidden_ND, target_N):
        logits_NV = model.token_logits(hidden_ND)
        return jax.nn.logsumexp(logits_NV, axis=-1) - jnp.take_along_axis(logits_NV, target_N[:, None], axis=-1)[:, 0]

    flat = blockwise(nll, hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), target_BT.reshape(-1))
    return flat.reshape(target_BT.shape)


def by_kind(name: str, value_BT: jax.Array, batch: Any, weight_BT: jax.Array) -> dict[str, Ratio]:
    """`name/text`, `name/action`, ...: the unweighted mean of value over the targets of each kind."""
    kind_BT = jnp.roll(batch.kinds, -1, axis=1)
    metrics = {}
    for kind, index in KINDS_WITH_TARGETS.items():
        counted_BT = ((kind_BT == index) & (weight_BT > 0)).astype(jnp.float32)
        metrics[f"{name}/{kind}"] = (jnp.sum(counted_BT * value_BT), jnp.sum(counted_BT))
    return metrics
