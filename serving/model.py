"""A checkpoint as a module again: the model, its vocabulary and the phase that made it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from configs.schema import parse
from data.chat import PLAIN_TURN, turn_of
from data.image_prompt import ImageForm
from data.vocabulary import Vocabulary
from model.cache import Cache, empty_cache
from model.config import ModelConfig
from model.layers import unstacked
from model.model import create, join, split
from train.checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """`graph` with `params` and `buffers` is the module (see `model.model.join`); `phase` is its config section.

    turn: of the conversations that it was trained on, see `data.chat.ChatTemplate`.
    """

    config: ModelConfig
    vocabulary: Vocabulary
    phase: dict[str, Any]
    graph: Any
    params: Any
    buffers: Any
    turn: str = PLAIN_TURN

    @classmethod
    def of(cls, checkpoint: Checkpoint, *, untrained: bool = False) -> LoadedModel:
        """The trained weights (averaged ones where kept), or those of initialisation if `untrained`."""
        phase = checkpoint.config["phases"][checkpoint.phase]
        config = parse(ModelConfig, checkpoint.config["models"][phase["model"]], f"models.{phase['model']}")
        vocabulary = Vocabulary.from_bytes(checkpoint.vocabulary_bytes)
        initial = lambda: create(config, vocabulary.size, checkpoint.config["seed"])  # noqa: E731
        graph, params, buffers = split(initial() if untrained else jax.eval_shape(initial))
        if not untrained:
            as_trained = lambda like, stored: jnp.asarray(stored, like.dtype)  # noqa: E731  (imports may be narrower)
            params, buffers = jax.tree.map(as_trained, (params, buffers), (checkpoint.weights, checkpoint.buffers))
        turn = turn_of(vocabulary, checkpoint.config.get("sources", {}))
        return cls(config, vocabulary, phase, graph, params, buffers, turn)

    def layer_by_layer(self) -> LoadedModel:
        """The same model with its layers one by one, as caches need them."""
        if not self.config.scan:
            return self
        config = dataclasses.replace(self.config, scan=False)
        graph = split(jax.eval_shape(lambda: create(config, self.vocabulary.size, seed=0)))[0]
        params, buffers = (unstacked(tree, self.config) for tree in (self.params, self.buffers))
        return dataclasses.replace(self, config=config, graph=graph, params=params, buffers=buffers)

    @property
    def image_form(self) -> ImageForm | None:
        """What the model makes of a picture; None where it sees none."""
        image = self.config.image
        return None if image is None else ImageForm((image.height, image.width), image.num_slots)

    def empty_cache(self, batch_size: int, max_slots: int) -> Cache:
        return empty_cache(self.config, batch_size, max_slots)

    def module(self, params: Any, buffers: Any) -> Any:
        """The module inside a pure function of its states."""
        return join(self.graph, params, buffers)
