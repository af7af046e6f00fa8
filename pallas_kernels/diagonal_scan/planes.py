"""Complex numbers as a pair of real arrays, the real and the imaginary plane: kernels have no complex type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Planes = tuple[jax.Array, jax.Array]


def times(x: Planes, y: Planes, plus: Planes | None = None) -> Planes:
    """x y + plus."""
    if plus is None:
        return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]
    return plus[0] - x[1] * y[1] + x[0] * y[0], plus[1] + x[1] * y[0] + x[0] * y[1]


def scale(factor: jax.Array, x: Planes) -> Planes:
    """factor x, for a real factor."""
    return factor * x[0], factor * x[1]


def conj(x: Planes) -> Planes:
    """The complex conjugate."""
    return x[0], -x[1]


def each(f: Callable[..., jax.Array], *planes: Any) -> Planes:
    """f of the real planes and of the imaginary planes."""
    re, im = (f(*parts) for parts in zip(*planes, strict=True))
    return re, im


def pad(x: jax.Array, axis: int, multiple: int) -> jax.Array:
    """Append zeros up to a multiple; x itself where none are missing."""
    missing = -x.shape[axis] % multiple
    if not missing:
        return x
    return jnp.pad(x, [(0, missing if dim == axis else 0) for dim in range(x.ndim)])
