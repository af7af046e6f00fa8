"""Distillation on what the student itself writes (GKD, arXiv 2306.13649): the teacher judges every token of it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from model.model import Model
from train.objectives.loss import Loss, with_router
from train.objectives.policy import Divergence, evaluate_policy, kl_divergence, policy_metrics
from train.rollout.samples import Draws, Group, Row


@dataclasses.dataclass(frozen=True)
class Options:
    """divergence: "reverse" KL(student || teacher), "forward" KL(teacher || student), or "jsd", which lies between
    them: with m = beta teacher + (1 - beta) student, beta KL(teacher || m) + (1 - beta) KL(student || m)."""

    divergence: Literal["reverse", "forward", "jsd"] = "reverse"
    beta: float | None = None  # jsd only; 0.5 if not given

    def __post_init__(self):
        if self.beta is not None and self.divergence != "jsd":
            raise ValueError(f"beta is {self.beta}, but divergence {self.divergence!r} has none; leave it out")
        if self.beta is not None and not 0 < self.beta < 1:
            raise ValueError(f"beta is {self.beta}; it must be in (0, 1)")


def draws(samples: int, options: Options) -> Draws:
    del options
    return Draws(policy=samples)


def rows_of(group: Group, options: Options) -> list[Row]:
    del options
    return [Row(sample, 1.0) for sample in group.policy]


def loss(model: Model, batch: Any, key: jax.Array, *, teacher: Model, options: Options, text_size: int) -> Loss:
    """Mean over the tokens of all answers of the divergence of the student from the teacher, in nats."""
    del key
    policy = evaluate_policy(model, teacher, batch, text_size, divergence_of(options))
    total, weight = jnp.sum(policy.weight_BT * policy.divergence_BT), jnp.sum(policy.weight_BT)
    metrics = policy_metrics(policy, batch) | {"loss/divergence": (total, weight)}
    return with_router(total, weight, metrics, policy.output.router)


def divergence_of(options: Options) -> Divergence:
    """The chosen divergence, of log student and log teacher."""
    if options.divergence == "reverse":
        return kl_divergence
    if options.divergence == "forward":
        return lambda log_p_NV, log_q_NV: kl_divergence(log_q_NV, log_p_NV)
    beta = 0.5 if options.beta is None else options.beta

    def jsd(log_p_NV, log_q_NV):
        log_m_NV = jnp.logaddexp(jnp.log(beta) + log_q_NV, jnp.log1p(-beta) + log_p_NV)
        return beta * kl_divergence(log_q_NV, log_m_NV) + (1 - beta) * kl_divergence(log_p_NV, log_m_NV)

    return jsd
