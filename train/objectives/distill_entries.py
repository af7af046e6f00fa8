"""A few entries of a teacher's distribution in place of all V: drawn by their probability, or the largest.

Sampled (Gemma 3, arXiv 2503.19786, section 2.2): K draws by the teacher's probability; an entry's probability becomes
its share of the draws, all others get 0. The expectation of a share is the probability itself, so the gradient of the
cross-entropy is unbiased. The draws are systematic (Kitagawa 1996, appendix): one uniform number places K equidistant
points on the distribution function, and each share is within 1/K of its probability.

Top-k: the K largest, and one outcome for the mass of all others. Teacher and student are reduced to the same K + 1
outcomes, so that both sum to one and equal distributions have no divergence; it is a lower bound of that of all V.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

_PREFIX = "teacher_"  # of the arrays' names in `Batch.values`


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Entries:
    """What is kept of a teacher at every slot, [B,T,...] or flat [N,...]; K entries, different ids.

    id: int32[...,K]. log_p: float32[...,K]; -inf where fewer than K are used.
    rest: float32[...], log of the mass of all other ids; None where they have none (sampled).
    entropy: float32[...] in nats, of the teacher: the divergence is the cross-entropy less this.
    """

    id: Any
    log_p: Any
    rest: Any
    entropy: Any

    @classmethod
    def of(cls, batch: Any) -> Entries:
        """The entries that `values` gave to a batch."""
        return cls(*(batch.values.get(_PREFIX + field.name) for field in dataclasses.fields(cls)))

    def values(self) -> dict[str, Any]:
        """The arrays by their names in `Batch.values`."""
        return {_PREFIX + name: value for name, value in vars(self).items() if value is not None}


def sample(logits_NV: jax.Array, uniform_N: jax.Array, num: int) -> jax.Array:
    """int32[N,num]: ids drawn by the probability softmax(logits), rising, each as often as it is drawn.

    uniform_N: in [0, 1), one number for all draws of a position. Probabilities below 1e-7 are drawn imprecisely: the
    distribution function is float32.
    """
    cdf_NV = jnp.cumsum(jax.nn.softmax(logits_NV), axis=-1)
    point_NK = (jnp.arange(num) + 1 - uniform_N[:, None]) / num * cdf_NV[:, -1:]  # in (0, 1], so no entry of mass 0
    return jax.vmap(jnp.searchsorted)(cdf_NV, point_NK).astype(jnp.int32)


def top(logits_NV: jax.Array, num: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(id int32[N,num], log p float32[N,num], log mass of all others float32[N]) of the largest; num < V."""
    log_p_NV = jax.nn.log_softmax(logits_NV)
    log_p_NK, id_NK = jax.lax.top_k(log_p_NV, num)
    return id_NK, log_p_NK, jax.nn.logsumexp(_without(log_p_NV, id_NK), axis=-1)


def entropy(logits_NV: jax.Array) -> jax.Array:
    """float32[N], in nats."""
    log_p_NV = jax.nn.log_softmax(logits_NV)
    return -jnp.sum(jnp.exp(log_p_NV) * log_p_NV, axis=-1)


def divergence(logits_NV: jax.Array, entries: Entries) -> jax.Array:
    """float32[N]: KL(teacher || student) over the outcomes that the entries tell apart; 0 where there are none."""
    log_s_NV = jax.nn.log_softmax(logits_NV)
    cross_N = _cross(entries.log_p, jnp.take_along_axis(log_s_NV, entries.id, axis=-1)).sum(-1)
    if entries.rest is not None:
        cross_N += _cross(entries.rest, jax.nn.logsumexp(_without(log_s_NV, entries.id), axis=-1))
    return cross_N - entries.entropy


def _cross(log_p: jax.Array, log_s: jax.Array) -> jax.Array:
    return -jnp.exp(log_p) * log_s


def _without(log_p_NV: jax.Array, id_NK: jax.Array) -> jax.Array:
    return log_p_NV.at[jnp.arange(len(id_NK))[:, None], id_NK].set(-jnp.inf)
