"""Gated feed-forward: GeGLU and SwiGLU (arXiv 2002.05202)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
from flax import nnx

from model.init import Init, fan_in

ACTIVATIONS = {"gelu": functools.partial(jax.nn.gelu, approximate=True), "silu": jax.nn.silu}


class Dense(nnx.Module):
    """(act(x W_gate) * (x W_up)) W_down. Shape of x: [..., D]."""

    def __init__(self, init: Init, model_dim: int, hidden_dim: int, activation: str):
        self.activation = activation
        self.gate = init.param("gate", (model_dim, hidden_dim), ("embed", "mlp"), fan_in(model_dim))
        self.up = init.param("up", (model_dim, hidden_dim), ("embed", "mlp"), fan_in(model_dim))
        self.down = init.param("down", (hidden_dim, model_dim), ("mlp", "embed"), fan_in(hidden_dim))

    def __call__(self, x: jax.Array) -> jax.Array:
        return gated([w[...].astype(x.dtype) for w in (self.gate, self.up, self.down)], x, self.activation)


def gated(matrices: Sequence[jax.Array], x: jax.Array, activation: str) -> jax.Array:
    """(act(x W_gate) * (x W_up)) W_down; of a slice of the hidden units, its part of the sum."""
    gate, up, down = matrices
    return (ACTIVATIONS[activation](x @ gate) * (x @ up)) @ down
