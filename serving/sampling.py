"""From logits to a token: temperature, the k most likely, the most likely that together hold p, one seed a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from data.batch import Array


@dataclasses.dataclass(frozen=True)
class Sampling:
    """temperature: 0 takes the most likely token. top_k: 0 = all. top_p: 1 = all (nucleus, arXiv 1904.09751).

    Temperature comes first, then top_k, then top_p of what is left. What a row draws depends on its seed and on how
    many tokens it has drawn before, never on its neighbours in the batch.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for field, allowed, fine in (
            ("temperature", "0 or more", self.temperature >= 0),
            ("top_k", "0 (all) or more", self.top_k >= 0),
            ("top_p", "above 0, at most 1", 0 < self.top_p <= 1),
            ("seed", "0 or more", self.seed >= 0),
        ):
            if not fine:
                raise ValueError(f"{field} is {getattr(self, field)}; allowed: {allowed}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
    """The settings of each row as arrays, so that one compiled program serves any mixture of them."""

    temperature_B: Array
    top_k_B: Array
    top_p_B: Array
    seed_B: Array

    @classmethod
    def of(cls, rows: Sequence[Sampling]) -> Draws:
        column = lambda name, dtype: np.array([getattr(row, name) for row in rows], dtype)  # noqa: E731
        return cls(column("temperature", "f4"), column("top_k", "i4"), column("top_p", "f4"), column("seed", "u4"))


def draw(logits_BV: jax.Array, drawn_B: jax.Array, draws: Draws) -> jax.Array:
    """One token for each row, which has drawn `drawn_B` before.

    Random numbers are made, and logits sorted, only where some row asks for it: over a large vocabulary either costs as
    much as a layer.
    """
    most_likely_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    samples_B = draws.temperature_B > 0
    return jax.lax.cond(
        samples_B.any(),
        lambda: jnp.where(samples_B, _sample(logits_BV, drawn_B, draws), most_likely_B),
        lambda: most_likely_B,
    )


def _sample(logits_BV: jax.Array, drawn_B: jax.Array, draws: Draws) -> jax.Array:
    tempered_BV = logits_BV / jnp.maximum(draws.temperature_B, 1e-6)[:, None]
    cuts_B = (draws.top_k_B > 0) | (draws.top_p_B < 1)
    least_B = jax.lax.cond(
        cuts_B.any(),
        lambda: jnp.where(cuts_B, _smallest_kept(tempered_BV, draws), -jnp.inf),
        lambda: jnp.full(cuts_B.shape, -jnp.inf),
    )
    kept_BV = jnp.where(tempered_BV >= least_B[:, None], tempered_BV, -jnp.inf)
    keys_B = jax.vmap(lambda seed, n: jax.random.fold_in(jax.random.key(seed), n))(draws.seed_B, drawn_B)
    return jax.vmap(jax.random.categorical)(keys_B, kept_BV).astype(jnp.int32)


def _smallest_kept(tempered_BV: jax.Array, draws: Draws) -> jax.Array:
    """The lowest logit that top_k and top_p leave; the most likely token always stays."""
    sorted_BV = -jnp.sort(-tempered_BV, axis=-1)
    rank_V = jnp.arange(sorted_BV.shape[1])
    k_B = jnp.where(draws.top_k_B > 0, draws.top_k_B, rank_V.size)
    sorted_BV = jnp.where(rank_V < k_B[:, None], sorted_BV, -jnp.inf)
    p_BV = jax.nn.softmax(sorted_BV, axis=-1)
    kept_BV = (jnp.cumsum(p_BV, axis=-1) - p_BV < draws.top_p_B[:, None]) & (sorted_BV > -jnp.inf)
    return jnp.where(kept_BV, sorted_BV, jnp.inf).min(-1)
