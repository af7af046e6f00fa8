"""A forward pass that needs the parameters of one layer at a time, for models larger than memory."""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.config import ModelConfig
from model.model import create, join, split
from model.structure import Structure, structure_of
from serving.interchange.stacking import nested


def as_compared(config: ModelConfig) -> ModelConfig:
    """The same model, layer by layer in float32 and on any machine."""
    return dataclasses.replace(config, scan=False, dtype="float32", remat="none", kernels="auto")


class Layerwise:
    """Logits of text in float32: `begin`, then `layer` for every layer in order, then `logits`."""

    def __init__(self, config: ModelConfig, vocab_size: int, tokens_BT: np.ndarray):
        config = as_compared(config)
        model = jax.eval_shape(lambda: create(config, vocab_size, 0))
        self._blocks = [split(block)[0] for block in model.stack.remainder]
        model.stack.remainder = nnx.List([])
        self._outside = split(model)[0]
        self._tokens_BT = jnp.asarray(tokens_BT)
        self.hidden_BTD: Any = None
        self._structure: Any = None

    def begin(self, outside: dict[str, np.ndarray]) -> None:
        """`outside`: parameters that belong to no layer, by path."""
        self.hidden_BTD, self._structure = _embed(self._outside, _float32(outside), self._tokens_BT)

    def layer(self, i: int, params: dict[str, np.ndarray], buffers: dict[str, np.ndarray]) -> None:
        """Parameters and buffers by their paths below the layer."""
        states = _float32(params), _float32(buffers)
        self.hidden_BTD = _layer(self._blocks[i], *states, self.hidden_BTD, self._structure)

    def logits(self, outside: dict[str, np.ndarray]) -> np.ndarray:
        """float32[B,T,V]."""
        return np.asarray(_logits(self._outside, _float32(outside), self.hidden_BTD))


@functools.partial(jax.jit, static_argnums=0)
def _embed(graph: Any, params: Any, tokens_BT: jax.Array) -> tuple[jax.Array, Structure]:
    zeros_BT = jnp.zeros(tokens_BT.shape, jnp.int32)
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    hidden_BTD = join(graph, params, {}).embed(SimpleNamespace(tokens=tokens_BT, media={}, values={}))
    return hidden_BTD, structure_of(zeros_BT + 1, positions_BT, zeros_BT)


@functools.partial(jax.jit, static_argnums=0)
def _layer(graph: Any, params: Any, buffers: Any, x_BTD: jax.Array, structure: Structure) -> jax.Array:
    block: Any = join(graph, params, buffers)
    return block(x_BTD, structure)[0]


@functools.partial(jax.jit, static_argnums=0)
def _logits(graph: Any, params: Any, hidden_BTD: jax.Array) -> jax.Array:
    model = join(graph, params, {})
    return model.token_logits(model.norm(hidden_BTD))


def _float32(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return nested({path: array.astype(np.float32, copy=False) for path, array in arrays.items()})
