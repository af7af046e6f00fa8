"""What every objective returns, and the router's share of it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from model.moe import RouterStats
from model.stack import router_metrics

Ratio = tuple[jax.Array, jax.Array]  # (sum, weight): a mean that stays exact when batches are accumulated


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss as `total / weight`, so that accumulated micro-batches give the gradient of the whole batch.

    metrics: name -> (sum, weight). router: statistics of every MoE layer, from which the balancing biases move.
    """

    total: jax.Array
    weight: jax.Array
    metrics: dict[str, Ratio]
    router: tuple[RouterStats, ...]


def with_router(
    total: jax.Array, weight: jax.Array, metrics: dict[str, Ratio], router: tuple[RouterStats, ...]
) -> Loss:
    """Add the routers' balance and z-losses, scaled so that they enter `total / weight` at their own weight."""
    one = jnp.ones(())
    metrics = {**metrics, "loss": (total, weight), **{k: (v, one) for k, v in router_metrics(router).items()}}
    if router:
        total = total + weight * sum(stats.loss for stats in router)
    return Loss(total, weight, metrics, router)
