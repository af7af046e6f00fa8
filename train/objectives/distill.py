"""Distillation from a teacher's full distribution (arXiv 1503.02531) or stored entries of it, over every token
target."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from data.batch import targets
from model.heads.tokens import positionwise
from model.model import Model
from train.objectives.distill_entries import Entries, divergence
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


def loss(
    model: Model, batch: Any, key: jax.Array, *, teacher: Model | None, stored: Entries | None = None, options: Options
) -> Loss:
    """alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * -log p(token), weighted by `batch.loss_weights`.

    stored: what is kept of a teacher, at T = 1, in place of `teacher`.
    """
    del key
    output = model(batch)
    if stored is not None:
        assert options.temperature == 1
        taught, divergence_of = stored, divergence
    else:
        assert teacher is not None
        taught = jax.lax.stop_gradient(teacher(batch).hidden_BTD)
        divergence_of = _full_divergence(teacher, options.temperature)
    target_BT, weight_BT = targets(batch)
    unembed = model.unembedding()

    def terms(hidden_ND, target_N, taught_N):
        logits_NV = unembed(hidden_ND)
        nll_N = -jnp.take_along_axis(jax.nn.log_softmax(logits_NV), target_N[:, None], axis=-1)[:, 0]
        return jnp.stack([nll_N, divergence_of(logits_NV, taught_N)], axis=-1)

    nll_BT, kl_BT = jnp.unstack(positionwise(terms, output.hidden_BTD, target_BT, taught), axis=-1)
    mixed_BT = options.alpha * options.temperature**2 * kl_BT + (1 - options.alpha) * nll_BT
    metrics = by_kind("loss", nll_BT, batch, weight_BT) | by_kind("kl", kl_BT, batch, weight_BT)
    return with_router(jnp.sum(weight_BT * mixed_BT), jnp.sum(weight_BT), metrics, output.router)


def _full_divergence(teacher: Model, temperature: float) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """KL(teacher || student) float32[N] of the student's logits [N,V] and the teacher's hidden states [N,D]."""
    unembed = teacher.unembedding()

    def divergence_of(logits_NV, taught_ND):
        log_p_NV = jax.nn.log_softmax(jax.lax.stop_gradient(unembed(taught_ND)) / temperature)
        return jnp.sum(jnp.exp(log_p_NV) * (log_p_NV - jax.nn.log_softmax(logits_NV / temperature)), axis=-1)

    return divergence_of
