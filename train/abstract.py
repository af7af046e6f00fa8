"""A train state as shapes and placements, nothing allocated: what a checkpoint is read into."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from train.optimizer import Optimizer
from train.spread import moment_shardings
from train.step import TrainState


def placed(shapes: Any, shardings: Any) -> Any:
    """The same shapes, each with its placement."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def abstract_state(params: Any, buffers: Any, optimizer: Optimizer, *, ema: bool) -> TrainState:
    """What `TrainState.create` makes of parameters that are shapes with placements.

    Averages lie where their parameters do, moments where `train.spread` says, counters everywhere.
    """
    shapes = jax.eval_shape(lambda p, b: TrainState.zero(p, b, optimizer, ema=ema), params, buffers)
    like = {_names(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}
    everywhere = NamedSharding(jax.tree.leaves(params)[0].sharding.mesh, PartitionSpec())

    def place(path: Any, leaf: Any) -> NamedSharding:
        names = _names(path)
        ends = (like.get(names[start:]) for start in range(len(names)))
        return next((x.sharding for x in ends if x is not None and x.shape == leaf.shape), everywhere)

    state = placed(shapes, jax.tree_util.tree_map_with_path(place, shapes))
    moments = placed(shapes.opt_state, moment_shardings(shapes.opt_state, params, optimizer.dims))
    return dataclasses.replace(state, params=params, buffers=buffers, opt_state=moments)


def _names(path: Any) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
