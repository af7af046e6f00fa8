"""Group-relative policy optimisation (DeepSeekMath, arXiv 2402.03300, section 4.1): rewards against their group."""

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
    """kl: weight of KL(policy || teacher). anchor: weight, in the reward, of log policy / moving average, as WARP's
    first stage (arXiv 2406.16768, section 3.1) has it. updates: steps that are taken on answers drawn at once, each on
    its own share of them; `clip_low` and `clip_high` bound how far they move the policy from the one that drew (DAPO,
    arXiv 2503.14476, eq. 10)."""

    kl: float = 0.02
    anchor: float = 0.0
    updates: int = 1
    clip_low: float = 0.2
    clip_high: float = 0.28

    def __post_init__(self):
        for field in ("kl", "anchor"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be 0 or more")
        if self.updates < 1:
            raise ValueError(f"updates is {self.updates}; it must be at least 1 step for the answers drawn at once")
        if not (0 < self.clip_low < 1 and self.clip_high > 0):
            raise ValueError(
                f"clip_low and clip_high are {self.clip_low, self.clip_high}; clip_low must be in (0, 1), clip_high "
                "positive"
            )


def draws(samples: int, options: Options) -> Draws:
    if samples < 2:
        raise ValueError(f"rollout.samples is {samples}; objective 'grpo' compares answers to a prompt, draw 2 or more")
    return Draws(policy=samples, scored=options.anchor > 0)


def rows_of(group: Group, options: Options) -> list[Row]:
    """Advantage of each answer: its reward less the group's mean, over the group's deviation (section 4.1.2)."""
    away = np.array([sample.logprob - sample.anchor_logprob for sample in group.policy]) if options.anchor else 0.0
    reward_G = np.array([sample.reward for sample in group.policy]) - options.anchor * away
    spread = reward_G.std()
    advantage_G = (reward_G - reward_G.mean()) / spread if spread > 1e-6 else np.zeros_like(reward_G)
    return [Row(sample, float(advantage)) for sample, advantage in zip(group.policy, advantage_G, strict=True)]


def loss(model: Model, batch: Any, key: jax.Array, *, teacher: Model, options: Options, text_size: int) -> Loss:
    """Mean over the tokens of all answers (DAPO, eq. 12) of -min(r A, clip(r) A) + kl KL(policy || teacher).

    r = policy / the policy that drew the token; A is the answer's advantage. The KL is the exact one of each token's
    distribution, not an estimate from the token drawn.
    """
    del key
    policy = evaluate_policy(model, teacher, batch, text_size)
    drawn_BT = jnp.roll(batch.values["logprob"], -1, axis=1)
    ratio_BT = jnp.exp(jnp.where(policy.weight_BT > 0, policy.logprob_BT - drawn_BT, 0.0))
    clipped_BT = jnp.clip(ratio_BT, 1 - options.clip_low, 1 + options.clip_high)
    advantage_B1 = batch.values["coefficient"][:, None]
    gain_BT = jnp.minimum(ratio_BT * advantage_B1, clipped_BT * advantage_B1)
    total = jnp.sum(policy.weight_BT * (options.kl * policy.kl_BT - gain_BT))
    clipped = jnp.sum(policy.weight_BT * (ratio_BT * advantage_B1 > gain_BT)), jnp.sum(policy.weight_BT)
    metrics = policy_metrics(policy, batch) | {"clipped": clipped}
    return with_router(total, jnp.sum(policy.weight_BT), metrics, policy.output.router)
