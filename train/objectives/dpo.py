"""Direct preference optimisation (arXiv 2305.18290, eq. 7); the teacher is the reference policy."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from data.batch import targets
from model.heads.tokens import token_nll
from model.model import Model
from train.objectives.loss import Loss, with_router
from train.objectives.pairs import exists, halves, preference


@dataclasses.dataclass(frozen=True)
class Options:
    """`beta`: how much a nat of log-ratio to the reference is worth; larger keeps the policy closer to it."""

    beta: float = 0.1

    def __post_init__(self):
        if self.beta <= 0:
            raise ValueError(f"beta is {self.beta}; allowed: a positive number")


def loss(model: Model, batch: Any, key: jax.Array, *, teacher: Model, options: Options) -> Loss:
    """Mean -log sigmoid(beta (r(better) - r(worse))) over pairs, r the log-ratio of policy and reference summed over
    an answer's tokens."""
    del key
    output, taught_BTD = model(batch), teacher(batch).hidden_BTD
    target_BT, weight_BT = targets(batch)
    log_p_BT = -token_nll(model, output.hidden_BTD, target_BT)
    reference_BT = jax.lax.stop_gradient(-token_nll(teacher, taught_BTD, target_BT))
    ratio_BT = jnp.where(weight_BT > 0, log_p_BT - reference_BT, 0.0)
    better_BP, worse_BP = halves(ratio_BT, batch.segment_ids)
    exists_BP = exists(batch.segment_ids)
    total, weight, metrics = preference(options.beta * (better_BP - worse_BP), exists_BP)
    metrics |= {
        "log_ratio/better": (jnp.sum(better_BP * exists_BP), weight),
        "log_ratio/worse": (jnp.sum(worse_BP * exists_BP), weight),
    }
    return with_router(total, weight, metrics, output.router)
