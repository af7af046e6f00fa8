"""Rotary position embedding (arXiv 2104.09864), split-half rotation."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def rotate(x_BTHh: jax.Array, positions_BT: jax.Array, base: float, scale: float, fraction: float = 1.0) -> jax.Array:
    """Rotate each pair (x_i, x_{i + h/2}) by position / scale * base^(-2i/h); angles in float32.

    Only the `fraction` of all pairs with the highest frequencies turns ("proportional" RoPE).
    """
    half = x_BTHh.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    frequency = jnp.where(jnp.arange(half) < int(fraction * half), frequency, 0.0)
    angle_BT1f = (positions_BT.astype(jnp.float32) / scale)[:, :, None, None] * frequency
    sin, cos = jnp.sin(angle_BT1f), jnp.cos(angle_BT1f)
    first, second = jnp.split(x_BTHh.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BTHh.dtype)
