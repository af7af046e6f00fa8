"""Real-time chunking: the next chunk begins with what the robot does anyway while that chunk is being computed.

Two ways to draw a chunk that goes on from the running one: guidance at inference, for any flow-matching head (Black et
al., arXiv 2506.07339), and a clean prefix that the head was trained with (arXiv 2512.05964). The convention is that of
`heads.flow`: tau = 1 is noise and tau = 0 the action, so the papers' time is 1 - tau and their velocity has the other
sign.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from model.heads.flow import FlowHead, Prefix

MAX_WEIGHT = 5.0  # of the guidance (beta of the paper, appendix A.2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Running:
    """What is left of the running chunk when the observation of the next one is made.

    action_BKCA: normalised as the next chunk is; entry c is for the same control step as the next chunk's action c.
    count_BK: int32. Entries there are; those after them are ignored.
    delay_BK: int32. Entries, at most `count`, that will have been carried out when the next chunk arrives.
    """

    action_BKCA: jax.Array
    count_BK: jax.Array
    delay_BK: jax.Array


def overlap_weights(running: Running) -> jax.Array:
    """float32[B,K,C]: 1 for what will be carried out, then falling over the rest of the overlap, then 0 (eq. 5)."""
    step_C = jnp.arange(running.action_BKCA.shape[2])
    count, delay = running.count_BK[..., None], running.delay_BK[..., None]
    left = jnp.clip((count - step_C) / (count - delay + 1), 0.0, 1.0)
    falling = left * jnp.expm1(left) / (math.e - 1)
    return jnp.where(step_C < jnp.minimum(delay, count), 1.0, jnp.where(step_C < count, falling, 0.0))


def sample_guided(
    flow: FlowHead,
    noise_BKCA: jax.Array,
    embodiment_BK: jax.Array,
    prefix: Prefix,
    running: Running,
    max_weight: float = MAX_WEIGHT,
) -> jax.Array:
    """A chunk drawn under guidance towards `running` (algorithm 1), normalised.

    Each Euler step adds the gradient of the weighted squared distance between `running` and the denoised chunk, through
    the whole expert: the vector-Jacobian product of equation 2, not the error itself.
    """
    weight_BKC1 = overlap_weights(running)[..., None]

    def field(x_BKCA, tau_BK):
        tau = tau_BK[..., None, None]

        def denoised(x_BKCA):
            velocity_BKCA = flow.velocity(x_BKCA, tau_BK, embodiment_BK, prefix)
            return x_BKCA - tau * velocity_BKCA, velocity_BKCA

        chunk_BKCA, pull_back, velocity_BKCA = jax.vjp(denoised, x_BKCA, has_aux=True)
        (pull_BKCA,) = pull_back(weight_BKC1 * (running.action_BKCA - chunk_BKCA))
        return velocity_BKCA - _guidance(tau, max_weight) * pull_BKCA

    return flow.integrate(field, noise_BKCA)


def _guidance(tau: jax.Array, max_weight: float) -> jax.Array:
    """(1 - t) / (t r^2) with r^2 = (1 - t)^2 / (t^2 + (1 - t)^2) at the paper's time t = 1 - tau (eq. 2 and 4)."""
    return jnp.minimum(max_weight, (tau**2 + (1 - tau) ** 2) / jnp.maximum(tau * (1 - tau), 1e-6))


def sample_after(
    flow: FlowHead, noise_BKCA: jax.Array, embodiment_BK: jax.Array, prefix: Prefix, running: Running
) -> jax.Array:
    """A chunk whose first `delay` actions are those of `running`, normalised; for heads trained with clean prefixes."""
    kept_BKC = jnp.arange(noise_BKCA.shape[2]) < jnp.minimum(running.delay_BK, running.count_BK)[..., None]
    keep = lambda x_BKCA: jnp.where(kept_BKC[..., None], running.action_BKCA, x_BKCA)  # noqa: E731

    def field(x_BKCA, tau_BK):
        tau_BKC = jnp.where(kept_BKC, 0.0, tau_BK[..., None])
        return flow.velocity(keep(x_BKCA), tau_BKC, embodiment_BK, prefix)

    return keep(flow.integrate(field, noise_BKCA))
