"""A forward pass that needs the parameters of one layer at a time, for models larger than memory."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data.batch import Batch
from model.config import ModelConfig
from model.model import create, join, split
from model.structure import Structure, structure_of
from serving.interchange.stacking import nested

_TABLE = "tokens/table"
_BLOCK = 1 << 14  # rows of a table that are in float32 at once


def as_compared(config: ModelConfig) -> ModelConfig:
    """The same model, layer by layer in float32 and on any machine."""
    return dataclasses.replace(config, scan=False, dtype="float32", remat="none", kernels="auto")


class Layerwise:
    """Logits of a batch in float32: `begin`, then `layer` for every layer in order, then `logits`."""

    def __init__(self, config: ModelConfig, vocab_size: int, batch: Batch):
        self._config = config = as_compared(config)
        model = jax.eval_shape(lambda: create(config, vocab_size, 0))
        self._blocks = [split(block)[0] for block in model.stack.remainder]
        model.stack.remainder = nnx.List([])
        self._outside = split(model)[0]
        self._batch = jax.tree.map(jnp.asarray, batch)
        self.hidden_BTD: Any = None
        self._structure: Any = None

    def begin(self, outside: dict[str, np.ndarray]) -> None:
        """`outside`: parameters that belong to no layer, by path."""
        batch, rows = self._batch, {}
        if not self._config.num_codes:  # of a large table only the rows that are looked up
            ids, tokens = np.unique(batch.tokens, return_inverse=True)
            batch = dataclasses.replace(batch, tokens=jnp.asarray(tokens.reshape(batch.tokens.shape), jnp.int32))
            rows = {_TABLE: outside[_TABLE][ids]}
        self.hidden_BTD, self._structure = _embed(self._outside, _float32(outside | rows), batch)

    def layer(self, i: int, params: dict[str, np.ndarray], buffers: dict[str, np.ndarray]) -> None:
        """Parameters and buffers by their paths below the layer."""
        states = _float32(params), _float32(buffers)
        self.hidden_BTD = _layer(self._blocks[i], *states, self.hidden_BTD, self._structure)

    def logits(self, outside: dict[str, np.ndarray]) -> np.ndarray:
        """float32[B,T,V], a block of the vocabulary at a time."""
        name = _TABLE if self._config.tied_head else "token_head/table"
        table_VD, one_row = outside[name], {_TABLE: outside[_TABLE][:1]}
        size = len(table_VD) if self._config.num_codes else _BLOCK
        blocks = [one_row | {name: table_VD[i : i + size]} for i in range(0, len(table_VD), size)]
        parts = [_logits(self._outside, _float32(outside | block), self.hidden_BTD) for block in blocks]
        return np.concatenate(parts, axis=-1)


@functools.partial(jax.jit, static_argnums=0)
def _embed(graph: Any, params: Any, batch: Batch) -> tuple[jax.Array, Structure]:
    hidden_BTD = join(graph, params, {}).embed(batch)
    return hidden_BTD, structure_of(batch.segment_ids, batch.positions, batch.span_ids)


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
