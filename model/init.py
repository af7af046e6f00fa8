"""Deterministic initialisation: a parameter's value depends on the seed and its path, never on creation order."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

Initializer = Callable[[jax.Array, tuple[int, ...]], jax.Array]


class Buffer(nnx.Variable):
    """State that the step updates but no gradient reaches (router balancing biases)."""


class Init:
    """Creates parameters below one path; `init / "name"` goes one level down.

    With `layers` (the indices of the layers that one scanned block stands for) every parameter gets a leading axis of
    that length, and layer i has the same values as if it were created alone: scanned and unrolled stacks are equal.
    """

    def __init__(self, key: jax.Array, path: tuple[str, ...] = (), layers: tuple[int, ...] | None = None):
        self.key, self.path, self.layers = key, path, layers

    def __truediv__(self, name: str) -> Init:
        return Init(self.key, (*self.path, name), self.layers)

    def stacked(self, layers: tuple[int, ...]) -> Init:
        return Init(self.key, self.path, layers)

    def at(self, layer: int) -> Init:
        """The same path for the single layer `layer`, without a leading axis."""
        return Init(jax.random.fold_in(self.key, layer), self.path)

    def value(self, name: str, shape: tuple[int, ...], initializer: Initializer) -> jax.Array:
        salt = zlib.crc32("/".join((*self.path, name)).encode())
        if self.layers is None:
            return initializer(jax.random.fold_in(self.key, salt), shape)
        keys = [jax.random.fold_in(jax.random.fold_in(self.key, layer), salt) for layer in self.layers]
        return jnp.stack([initializer(key, shape) for key in keys])

    def param(self, name: str, shape: tuple[int, ...], axes: tuple[str | None, ...], init: Initializer) -> nnx.Param:
        """A parameter of `shape` whose dims have the logical `axes` that `sharding.rules` places."""
        assert len(shape) == len(axes), (self.path, name, shape, axes)
        return nnx.Param(self.value(name, shape, init), axes=self._axes(axes))

    def buffer(self, name: str, shape: tuple[int, ...], axes: tuple[str | None, ...], init: Initializer) -> Buffer:
        return Buffer(self.value(name, shape, init), axes=self._axes(axes))

    def _axes(self, axes: tuple[str | None, ...]) -> tuple[str | None, ...]:
        return axes if self.layers is None else ("layers", *axes)


def zeros(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    del key
    return jnp.zeros(shape, jnp.float32)


def ones(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    del key
    return jnp.ones(shape, jnp.float32)


def normal(std: float) -> Initializer:
    return lambda key, shape: std * jax.random.normal(key, shape, jnp.float32)


def fan_in(dim: int, gain: float = 1.0) -> Initializer:
    """Truncated normal of variance gain^2 / dim, `dim` being the number of inputs summed for one output."""
    std = gain * dim**-0.5 / 0.87962566  # standard deviation of a unit normal cut at 2
    return lambda key, shape: std * jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)
