"""Best-of-N distillation (BOND, arXiv 2407.14622): the policy learns to answer as the best of N answers of its own
moving average, by the Jeffreys divergence."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.model import Model
from train.objectives.loss import Loss, with_router
from train.objectives.policy import evaluate_policy, policy_metrics
from train.rollout.samples import Draws, Group, Row


@dataclasses.dataclass(frozen=True)
class Options:
    """best_of: N. beta: share of the backward KL in the divergence (1 - beta) KL(best || policy) + beta KL(policy ||
    best)."""

    best_of: int = 4
    beta: float = 0.5

    def __post_init__(self):
        if self.best_of < 2:
            raise ValueError(f"best_of is {self.best_of}; it must be at least 2 answers to choose from")
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta is {self.beta}; it must be in [0, 1]")


def draws(samples: int, options: Options) -> Draws:
    """Half of a prompt's rows are the policy's answers, half the best of N of the anchor's."""
    if samples < 4 or samples % 2:
        raise ValueError(f"rollout.samples is {samples}; objective 'bond' needs an even number of 4 or more")
    return Draws(policy=samples // 2, anchor=samples // 2 * options.best_of, scored=True)


def rows_of(group: Group, options: Options) -> list[Row]:
    """Coefficients under which the gradient of `loss` is, in expectation, that of the Jeffreys divergence.

    Forward: the best of each N answers of the anchor, imitated. Backward: REINFORCE with the others' mean as baseline
    and the reward log w - log policy / anchor, where best(y) = anchor(y) w(y) (Theorem 1 there).
    """
    anchor_reward_M = np.array([sample.reward for sample in group.anchor])
    best = [
        group.anchor[start + int(anchor_reward_M[start : start + options.best_of].argmax())]
        for start in range(0, len(group.anchor), options.best_of)
    ]
    rows = len(group.policy) + len(best)
    reward_G = np.array([sample.reward for sample in group.policy])
    away_G = np.array([sample.logprob - sample.anchor_logprob for sample in group.policy])
    value_G = log_best_ratio(reward_G, anchor_reward_M, options.best_of) - away_G
    gain_G = (value_G - value_G.mean()) * len(value_G) / (len(value_G) - 1)  # value less the mean of the others
    forward, backward = (1 - options.beta) * rows / len(best), options.beta * rows / len(value_G)
    policy = [Row(sample, float(backward * gain)) for sample, gain in zip(group.policy, gain_G, strict=True)]
    return policy + [Row(sample, forward, of_policy=False) for sample in best]


def log_best_ratio(reward_G: np.ndarray, anchor_reward_M: np.ndarray, best_of: int) -> np.ndarray:
    """log w[G] with best-of-N(y) = anchor(y) w(y) and w = (F^N - f^N) / (F - f), where F and f are the chances that an
    answer of the anchor is rewarded at most as y is, and less: Theorem 1 there, its sum in closed form.

    Both chances are shares among the anchor's answers and y itself, so neither logarithm nor ratio can fail.
    """
    at_most_G = 1 + (anchor_reward_M <= reward_G[:, None]).sum(1)
    less_G = (anchor_reward_M < reward_G[:, None]).sum(1)
    F_G, f_G = (count / (len(anchor_reward_M) + 1) for count in (at_most_G, less_G))
    return np.log((F_G**best_of - f_G**best_of) / (F_G - f_G))


def loss(model: Model, batch: Any, key: jax.Array, *, teacher: Model, options: Options, text_size: int) -> Loss:
    """Mean over answers of -coefficient * log policy(answer); `teacher` is what `kl` is measured against."""
    del key, options
    policy = evaluate_policy(model, teacher, batch, text_size)
    logprob_B = jnp.sum(policy.weight_BT * policy.logprob_BT, axis=1)
    total = -jnp.sum(batch.values["coefficient"] * logprob_B)
    answers = jnp.sum(jnp.any(policy.weight_BT > 0, axis=1)).astype(jnp.float32)
    return with_router(total, answers, policy_metrics(policy, batch), policy.output.router)
