"""Root-mean-square normalisation (arXiv 1910.07467) with the scale stored as its offset from one, as Gemma does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from model.init import Init, zeros

EPSILON = 1e-6


def rms_normalise(x: jax.Array) -> jax.Array:
    """x / rms(x) over the last axis, in float32, returned in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + EPSILON)


class RMSNorm(nnx.Module):
    """x / rms(x) * (1 + scale); statistics in float32, output in the input's dtype. Shape of x: [..., dim]."""

    def __init__(self, init: Init, dim: int, axis: str | None = "embed"):
        self.scale = init.param("scale", (dim,), (axis,), zeros)

    def __call__(self, x: jax.Array) -> jax.Array:
        return (rms_normalise(x) * (1.0 + self.scale[...])).astype(x.dtype)
