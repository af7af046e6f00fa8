"""A scalar score of each hidden state; that of a segment's last slot is how good the conversation in it is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from model.init import Init, fan_in


class RewardHead(nnx.Module):
    """hidden [..., D] -> float32[...]."""

    def __init__(self, init: Init, model_dim: int):
        self.kernel = init.param("kernel", (model_dim,), ("embed",), fan_in(model_dim))

    def __call__(self, hidden: jax.Array) -> jax.Array:
        return hidden.astype(jnp.float32) @ self.kernel[...]
