"""Root-mean-square normalisation (arXiv 1910.07467)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from model.config import NormConfig
from model.init import Init, ones, zeros


def rms_normalise(x: jax.Array, epsilon: float = NormConfig.epsilon) -> jax.Array:
    """x / rms(x) over the last axis, in float32, returned in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)


class RMSNorm(nnx.Module):
    """x / rms(x) * (1 + scale); statistics in float32, output in the input's dtype. Shape of x: [..., dim]."""

    def __init__(self, init: Init, dim: int, axis: str | None = "embed", config: NormConfig | None = None):
        self.config = config or NormConfig()
        self.scale = init.param("scale", (dim,), (axis,), zeros if self.config.offset else ones)

    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.scale[...] + 1.0 if self.config.offset else self.scale[...]
        return (rms_normalise(x, self.config.epsilon) * scale).astype(x.dtype)
