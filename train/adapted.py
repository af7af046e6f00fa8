"""A phase of which adapters alone are trained: what the loop, its checkpoints and its evaluation see of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding

from data.batch import Batch
from sharding.rules import shard_params
from train.loop import Collect
from train.step import TrainState

if TYPE_CHECKING:
    from train.phases import Phase

_FOLDER = "frozen"  # of the parameters that a phase does not train, written once


def adapted(built: Phase, params: Any, folder: Path, *, resumed: bool) -> tuple[Phase, Any]:
    """The phase as one of its trained parameters, and these; `params` are plain.

    The frozen ones are constants of the step. They are kept in `folder`, and read from there when resumed, so that a
    run goes on whatever became of what it began with. Evaluation, rollouts and checkpoints get merged parameters.
    """
    lora = built.lora
    assert lora is not None
    frozen = lora.frozen(params)
    with ocp.StandardCheckpointer() as store:
        if resumed:
            like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), frozen)
            frozen = store.restore(folder / _FOLDER, like)
        else:
            store.save(folder / _FOLDER, frozen, force=True)
    merge = jax.jit(lora.merged)

    def loss_fn(trained, buffers, batch, key, frozen, *constants):
        return built.loss_fn(lora.joined(trained, frozen), buffers, batch, key, *constants)

    def whole(state: TrainState) -> TrainState:
        average = None if state.ema is None else merge(state.ema, frozen)
        return dataclasses.replace(state, params=merge(state.params, frozen), ema=average)

    evaluate, collect = built.evaluate, built.collect
    phase = dataclasses.replace(
        built,
        axes=lora.axes,
        loss_fn=loss_fn,
        constants=(frozen, *built.constants),
        evaluate=None if evaluate is None else lambda state: evaluate(whole(state)),
        collect=None if collect is None else _Collect(collect, whole),
        merge=lambda trained: merge(trained, frozen),
    )
    trained = lora.begin(params)
    sharding = jax.tree.leaves(params)[0].sharding
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
        trained = shard_params(trained, lora.axes, sharding.mesh)
    return phase, trained


class _Collect:
    """Draws with merged parameters."""

    def __init__(self, collect: Collect, whole: Callable[[TrainState], TrainState]):
        self._collect, self._whole, self.updates = collect, whole, collect.updates

    def __call__(self, state: TrainState, given: Any) -> Batch:
        return self._collect(self._whole(state), given)
