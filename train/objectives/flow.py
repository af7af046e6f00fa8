"""Behaviour cloning through flow matching: regress the velocity of noised action chunks (pi0, arXiv 2410.24164, eq.
1)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from model.model import Model
from train.objectives.loss import Loss, with_router


@dataclasses.dataclass(frozen=True)
class Options:
    """`samples`: noise draws for each chunk; the backbone runs once for all of them."""

    samples: int = 1

    def __post_init__(self):
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}; allowed: at least 1 noise draw for each chunk")


def loss(model: Model, batch: Any, key: jax.Array, *, options: Options) -> Loss:
    """Mean squared error of the velocity over the actions that exist; never a loss over padding.

    With `flow.prefix` a chunk begins with a random number of clean actions, at most so many, and is learned from there
    on: what real-time chunking goes on from (arXiv 2512.05964).
    """
    output, values = model(batch, want_keys_values=True), batch.values
    repeat = lambda x: jnp.repeat(x, options.samples, axis=1)  # noqa: E731
    prefix = model.action_prefix(output, values)
    per_chunk = ("hidden_BKD", "proprio_BKA", "lo_BK", "hi_BK", "position_BK")
    prefix = dataclasses.replace(prefix, **{name: repeat(getattr(prefix, name)) for name in per_chunk})
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
    velocity_BKCA = model.flow.velocity(noisy_BKCA, tau, repeat(values["embodiment"]), prefix)
    error_BKCA = jnp.square(velocity_BKCA - (noise_BKCA - action_BKCA)) * mask_BKCA
    total, weight = jnp.sum(error_BKCA), jnp.sum(mask_BKCA).astype(jnp.float32)
    return with_router(total, weight, {"loss/action": (total, weight)}, output.router)


def flow_times(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """tau ~ 0.001 + 0.999 Beta(1.5, 1), by the inverse of its distribution function u^(1/1.5)."""
    return 0.001 + 0.999 * jax.random.uniform(key, shape) ** (1 / 1.5)


def clean_prefixes(key: jax.Array, shape: tuple[int, ...], most: int) -> jax.Array:
    """bool[B,K,C]: true for the first d actions of each chunk, d uniform in 0 .. `most`."""
    length_BK = jax.random.randint(key, shape[:2], 0, most + 1)
    return jnp.arange(shape[2]) < length_BK[..., None]
