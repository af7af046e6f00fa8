"""Distillation from a teacher's full distribution (arXiv 1503.02531), over every token target."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from data.batch import targets
from model.heads.tokens import blockwise
from model.model import Model
from train.objectives.loss import Loss, with_router
from train.objectives.next_token import by_kind


@dataclasses.dataclass(frozen=True)
class Options:
    """`alpha` weighs the teacher's distribution against the hard label; both distributions are taken at
    `temperature`."""

    alpha: float = 0.8
    temperature: float = 1.0

    def __post_init__(self):
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}; allowed: above 0 and at most 1; use objective next_token for 0")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; allowed: a positive number")


def loss(model: Model, batch: Any, key: jax.Array, *, teacher: Model, options: Options) -> Loss:
    """alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * -log p(token), weighted by `batch.loss_weights`."""
    del key
    output, taught_BTD = model(batch), jax.lax.stop_gradient(teacher(batch).hidden_BTD)
    target_BT, weight_BT = targets(batch)
    temperature = options.temperature

    def terms(hidden_ND, taught_ND, target_N):
        logits_NV = model.token_logits(hidden_ND)
        taught_NV = jax.lax.stop_gradient(teacher.token_logits(taught_ND))
        nll_N = -jnp.take_along_axis(jax.nn.log_softmax(logits_NV), target_N[:, None], axis=-1)[:, 0]
        log_p_NV = jax.nn.log_softmax(taught_NV / temperature)
        kl_N = jnp.sum(jnp.exp(log_p_NV) * (log_p_NV - jax.nn.log_softmax(logits_NV / temperature)), axis=-1)
        return jnp.stack([nll_N, kl_N], axis=-1)

    flat = [x.reshape(-1, x.shape[-1]) for x in (output.hidden_BTD, taught_BTD)]
    nll_BT, kl_BT = jnp.unstack(blockwise(terms, *flat, target_BT.reshape(-1)).reshape(*target_BT.shape, 2), axis=-1)
    mixed_BT = options.alpha * temperature**2 * kl_BT + (1 - options.alpha) * nll_BT
    metrics = by_kind("loss", nll_BT, batch, weight_BT) | by_kind("kl", kl_BT, batch, weight_BT)
    return with_router(jnp.sum(weight_BT * mixed_BT), jnp.sum(weight_BT), metrics, output.router)
