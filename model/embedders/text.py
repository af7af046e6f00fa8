"""Token embedding: text pieces and discrete codes share one table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from model.init import Init, normal


class TokenEmbedder(nnx.Module):
    """tokens_BT -> x_BTD, times sqrt(D) if `scale` so that a tied table serves as the head at unit variance."""

    def __init__(self, init: Init, vocab_size: int, model_dim: int, scale: bool):
        self.factor = model_dim**0.5 if scale else 1.0
        self.table = init.param("table", (vocab_size, model_dim), ("vocab", "embed"), normal(model_dim**-0.5))

    def __call__(self, tokens_BT: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return self.table[...].astype(dtype)[tokens_BT] * jnp.asarray(self.factor, dtype)
