"""Behaviour cloning through flow matching: regress the velocity of noised action chunks (pi0, arXiv 2410.24164, eq.
1)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from model.heads.flow import Prefix
from model.model import Model
from train.objectives.loss import Loss, with_router


@dataclasses.dataclass(frozen=True)
class Options:
    """`samples`: noise draws for each chunk; the backbone runs once for all of them. `alpha` weighs the velocity of a
    teacher, where there is one, against that of the demonstrations."""

    samples: int = 1
    alpha: float = 1.0

    def __post_init__(self):
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}; allowed: at least 1 noise draw for each chunk")
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}; allowed: above 0 and at most 1; leave the teacher out for 0")


def loss(model: Model, batch: Any, key: jax.Array, *, teacher: Model | None = None, options: Options) -> Loss:
    """Mean squared error of the velocity over the actions that exist; never a loss over padding.

    With `flow.prefix` a chunk begins with a random number of clean actions, at most so many, and is learned from there
    on: what real-time chunking goes on from (arXiv 2512.05964).

    A teacher is a policy of the same robots. Its velocity is the mean of what single demonstrations ask for at the same
    noisy chunk, a target of the same expectation without their variance (arXiv 2202.00512 distils so, over steps).
    """
    repeat = lambda x: jnp.repeat(x, options.samples, axis=1)  # noqa: E731
    prefix, router = _prefix(model, batch, options.samples)
    values = batch.values
    mask_BKCA = repeat(values["action_mask"] & (values["action_slot"] >= 0)[:, :, None, None])
    action_BKCA = jnp.where(mask_BKCA, repeat(values["action"]), 0.0)

    noise_key, tau_key = jax.random.split(key)
    noise_BKCA = jax.random.normal(noise_key, action_BKCA.shape) * mask_BKCA
    tau = flow_times(tau_key, action_BKCA.shape[:2])
    if most := model.flow.config.prefix:
        clean_BKC = clean_prefixes(jax.random.fold_in(key, 2), action_BKCA.shape[:3], most)
        tau, mask_BKCA = jnp.where(clean_BKC, 0.0, tau[:, :, None]), mask_BKCA & ~clean_BKC[..., None]
    each = tau.reshape(*tau.shape, *[1] * (4 - tau.ndim))
    noisy_BKCA = each * noise_BKCA + (1 - each) * action_BKCA
    embodiment_BK = repeat(values["embodiment"])
    velocity_BKCA = model.flow.velocity(noisy_BKCA, tau, embodiment_BK, prefix)
    squared = lambda error_BKCA: jnp.sum(jnp.square(error_BKCA) * mask_BKCA)  # noqa: E731
    target_BKCA, weight = noise_BKCA - action_BKCA, jnp.sum(mask_BKCA).astype(jnp.float32)
    total = squared(velocity_BKCA - target_BKCA)
    metrics = {"loss/action": (total, weight)}
    if teacher is not None:
        theirs, _ = _prefix(teacher, batch, options.samples)
        taught_BKCA = jax.lax.stop_gradient(teacher.flow.velocity(noisy_BKCA, tau, embodiment_BK, theirs))
        total = squared(velocity_BKCA - target_BKCA - options.alpha * (taught_BKCA - target_BKCA))
        metrics |= {"loss/taught": (total, weight)}
    return with_router(total, weight, metrics, router)


def _prefix(model: Model, batch: Any, samples: int) -> tuple[Prefix, Any]:
    """What the action expert sees of each chunk, `samples` times, and the router's statistics."""
    output = model(batch, want_keys_values=True)
    prefix = model.action_prefix(output, batch.values)
    per_chunk = ("hidden_BKD", "proprio_BKA", "lo_BK", "hi_BK", "position_BK")
    repeated = {name: jnp.repeat(getattr(prefix, name), samples, axis=1) for name in per_chunk}
    return dataclasses.replace(prefix, **repeated), output.router


def flow_times(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """tau ~ 0.001 + 0.999 Beta(1.5, 1), by the inverse of its distribution function u^(1/1.5)."""
    return 0.001 + 0.999 * jax.random.uniform(key, shape) ** (1 / 1.5)


def clean_prefixes(key: jax.Array, shape: tuple[int, ...], most: int) -> jax.Array:
    """bool[B,K,C]: true for the first d actions of each chunk, d uniform in 0 .. `most`."""
    length_BK = jax.random.randint(key, shape[:2], 0, most + 1)
    return jnp.arange(shape[2]) < length_BK[..., None]
