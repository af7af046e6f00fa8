"""A finished model that teaches: rebuilt from its checkpoint and laid over the mesh by its own placement rules."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from configs.schema import parse
from data.vocabulary import Vocabulary
from model.config import ModelConfig
from model.model import Model, axes_of, create, join, split
from sharding.rules import Axes, param_shardings
from train.checkpoint import Checkpoint, refuse_other_tokenizer
from train.optimizer import parameter_names


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A model and its parameters, which nobody changes; `model(*constants)` inside a step is the module."""

    config: ModelConfig
    graph: Any
    params: Any
    buffers: Any

    @classmethod
    def of(cls, checkpoint: Checkpoint, vocabulary: Vocabulary, mesh: Mesh) -> Teacher:
        """The averaged parameters where there are any, each device reading its part of them alone.

        Raises ValueError where the checkpoint has another tokenizer, and what `sharding.rules` refuses.
        """
        refuse_other_tokenizer(checkpoint, vocabulary.serialized)
        section = checkpoint.config["phases"][checkpoint.phase]["model"]
        config = parse(ModelConfig, checkpoint.config["models"][section], "teacher's model")
        abstract = jax.eval_shape(lambda: create(config, vocabulary.size, 0))
        graph, *states = split(abstract)
        weights = "ema" if (checkpoint.path / "ema").is_dir() else "params"
        read = (
            _placed(checkpoint, item, shapes, by_name(axes), mesh)
            for item, shapes, axes in zip((weights, "buffers"), states, axes_of(abstract), strict=True)
        )
        return cls(config, graph, *read)

    @property
    def constants(self) -> tuple[Any, Any]:
        return self.params, self.buffers

    def model(self, params: Any, buffers: Any) -> Model:
        return join(self.graph, params, buffers)


def by_name(axes: Any) -> dict[str, Axes]:
    """Axes by the name of the parameter they belong to."""
    is_axes = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    names = parameter_names(jax.tree.map(lambda _: 0, axes, is_leaf=is_axes))
    return dict(zip(jax.tree.leaves(names), jax.tree.leaves(axes, is_leaf=is_axes), strict=True))


def _placed(checkpoint: Checkpoint, item: str, shapes: Any, axes: dict[str, Axes], mesh: Mesh) -> Any:
    if not jax.tree.leaves(shapes):
        return shapes
    placements = param_shardings(shapes, axes, mesh)
    like = jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, placements)
    return checkpoint.read_like(item, like)
