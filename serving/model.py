"""A checkpoint as a module again: the model, its vocabulary and the phase that made it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from configs.schema import parse
from data.vocabulary import Vocabulary
from model.config import ModelConfig
from model.model import create, join, split
from train.checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """`graph` with `params` and `buffers` is the module (see `model.model.join`); `phase` is its config section."""

    config: ModelConfig
    vocabulary: Vocabulary
    phase: dict[str, Any]
    graph: Any
    params: Any
    buffers: Any

    @classmethod
    def of(cls, checkpoint: Checkpoint, *, untrained: bool = False) -> LoadedModel:
        """The trained weights (averaged ones where kept), or those of initialisation if `untrained`."""
        phase = checkpoint.config["phases"][checkpoint.phase]
        config = parse(ModelConfig, checkpoint.config["models"][phase["model"]], f"models.{phase['model']}")
        vocabulary = Vocabulary.from_bytes(checkpoint.vocabulary_bytes)
        initial = lambda: create(config, vocabulary.size, checkpoint.config["seed"])  # noqa: E731
        graph, params, buffers = split(initial() if untrained else jax.eval_shape(initial))
        if not untrained:
            params, buffers = jax.tree.map(jnp.asarray, (checkpoint.weights, checkpoint.buffers))
        return cls(config, vocabulary, phase, graph, params, buffers)

    def module(self, params: Any, buffers: Any) -> Any:
        """The module inside a pure function of its states."""
        return join(self.graph, params, buffers)
