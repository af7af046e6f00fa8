"""The train step of a phase for devices that need not be there: abstract arrays in, a program to compile out.

Nothing is allocated and no data is read. The step, its donated state and where every array lies are those that
`train.build` and `train.step.make_step` give to the loop.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from configs.schema import parse
from data.batch import Batch
from data.config import PipelineConfig, VocabularyConfig
from data.layout import RowShape, collate, lay_out
from data.vocabulary import Vocabulary
from model.config import ModelConfig
from model.flops import train_flops, work_of
from model.model import axes_of, create, split
from sharding.mesh import make_mesh
from sharding.plan.sweep import Load
from sharding.rules import param_shardings
from train.abstract import abstract_state, placed
from train.build import batch_placements, objective_of
from train.config import PhaseConfig, TrainConfig
from train.fit import check_fit, options_of
from train.mesh_fit import check_mesh
from train.optimizer import build_optimizer, parameter_names
from train.sections import Sections, completed
from train.step import TrainState, jit_step, step_mesh, train_step
from train.teacher import by_name


@dataclasses.dataclass(frozen=True)
class AbstractStep:
    """A train step and its arguments as shapes with placements.

    model_flops, hardware_flops: of one step on all devices together, every row being one document without padding; see
    `model.flops.train_flops`.
    """

    name: str
    mesh: Mesh
    phase: PhaseConfig
    model: ModelConfig
    vocab_size: int
    step: Any
    state: TrainState
    batch: Batch
    model_flops: float
    hardware_flops: float

    def lower(self) -> Any:
        with step_mesh(self.state):
            return jit_step(self.step, self.state).lower(self.state, self.batch, ())

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.state.params))

    @property
    def argument_bytes(self) -> dict[str, float]:
        """Bytes on each device when a step begins, by what they are."""
        state = self.state
        parts = {"parameters": state.params, "optimiser": state.opt_state, "average": state.ema, "batch": self.batch}
        return {name: size for name, part in parts.items() if (size := sum(map(_bytes, jax.tree.leaves(part))))}


def abstract_step(config: ConfigDict, name: str, devices: Sequence[Any]) -> AbstractStep:
    """The step of phase `name` on `devices`, laid out by `config.mesh`.

    Raises:
        ValueError: a phase that is more than a model, an objective and rows (adapters, a teacher, rollouts); a
            vocabulary of unknown size; what a real phase would be refused for.
    """
    config = completed(config)
    sections, where = Sections.of(config), f"config.phases.{name}"
    phase = _phase(config, name)
    model_config, vocab_size = sections.models[phase.model], _vocab_size(sections.vocabulary)
    options = options_of(where, phase)
    check_fit(where, phase, sections)
    mesh = make_mesh(sections.mesh, devices)
    check_mesh(where, phase, model_config, mesh.shape)
    model = jax.eval_shape(lambda: create(model_config, vocab_size, sections.seed))
    graph, params, buffers = split(model)
    axes, buffer_axes = (by_name(tree) for tree in axes_of(model))
    params = placed(params, param_shardings(params, axes, mesh))
    buffers = placed(buffers, param_shardings(buffers, buffer_axes, mesh))
    optimizer = build_optimizer(phase.optimizer, phase.steps, params, axes)
    settings = parse(TrainConfig, config.to_dict()["train"], "config.train")
    step = train_step(
        objective_of(phase, options, graph, axes, model_config, None),
        optimizer,
        seed=zlib.crc32(f"{sections.seed}/{name}".encode()),
        accumulate=phase.accumulate,
        ema=phase.ema,
        spike_factor=settings.spike_factor,
    )
    row = _full_row(phase.pipeline)
    flops = train_flops(model_config, vocab_size, work_of(row, model_config, phase.options.get("samples", 1)))
    return AbstractStep(
        name=name,
        mesh=mesh,
        phase=phase,
        model=model_config,
        vocab_size=vocab_size,
        step=step,
        state=abstract_state(params, buffers, optimizer, ema=phase.ema > 0),
        batch=_batch(row, phase.pipeline.batch_size, mesh),
        model_flops=flops[0] * phase.pipeline.batch_size,
        hardware_flops=flops[1] * phase.pipeline.batch_size,
    )


def load_of(config: ConfigDict, name: str) -> Load:
    """What the step of phase `name` asks of any mesh. Raises as `abstract_step` does."""
    step = abstract_step(_on_one_device(config), name, jax.devices()[:1])
    model, phase, sizes = step.model, step.phase, step.argument_bytes
    axes = by_name(axes_of(jax.eval_shape(lambda: create(model, step.vocab_size, 0)))[0])
    names = jax.tree.leaves(parameter_names(step.state.params))
    state = sum(sizes.get(part, 0.0) for part in ("parameters", "optimiser", "average"))
    attention = model.global_attention
    sparse = sum(kind != "dense" for kind in model.feed_forwards)
    return Load(
        parameters=[(x.shape, axes[name]) for name, x in zip(names, jax.tree.leaves(step.state.params), strict=True)],
        state_bytes=state / step.num_parameters,
        rows=phase.pipeline.batch_size,
        slots=phase.pipeline.slots,
        accumulate=phase.accumulate,
        width=model.model_dim,
        layers=model.num_layers,
        hidden=max(model.dense.hidden_dim if model.dense else 0, model.moe.hidden_dim if model.moe else 0),
        kv_width=model.mixers.count("global") * 2 * attention.num_kv_heads * attention.head_dim if attention else 0,
        routed=sparse * model.moe.top_k if model.moe else 0,
        hardware_flops=step.hardware_flops,
    )


def _on_one_device(config: ConfigDict) -> ConfigDict:
    config = copy.deepcopy(config)
    config.mesh = {}
    return config


def _bytes(leaf: Any) -> float:
    """Of one device's part."""
    return float(math.prod(leaf.sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize)


def _phase(config: ConfigDict, name: str) -> PhaseConfig:
    phases: dict[str, Any] = config.to_dict()["phases"]
    if name not in phases:
        raise ValueError(f"--phase is {name!r}; config.phases has {', '.join(phases)}")
    phase = parse(PhaseConfig, phases[name], f"config.phases.{name}")
    for field in ("lora", "teacher", "rollout"):
        if getattr(phase, field) is not None:
            raise ValueError(
                f"config.phases.{name}.{field} is set; only phases that train a whole model on rows can be planned. "
                "Plan another phase, or set it to None for a lower bound"
            )
    return phase


def _vocab_size(vocabulary: VocabularyConfig) -> int:
    """From the config alone where it says the size, else from the file."""
    if vocabulary.size is not None:
        return vocabulary.size + vocabulary.num_codes
    if not pathlib.Path(vocabulary.path).is_file():
        raise ValueError(
            f"config.vocabulary.path is {vocabulary.path!r}, where no file is, so its size is not known; give "
            "the file, or set config.vocabulary.size and paths"
        )
    return Vocabulary.load(vocabulary.path, vocabulary.num_codes).size


def _full_row(pipeline: PipelineConfig) -> Batch:
    """One row, as a batch of one: a single document of text that fills it, with all pictures and vectors in use."""
    shape = RowShape(
        pipeline.slots,
        pipeline.images,
        pipeline.image_size,
        pipeline.vectors,
        pipeline.chunk,
        pipeline.width,
        pipeline.chunk_proprio,
    )
    row = collate([lay_out([], shape)])
    used = lambda group: {n: abs(x) if n.endswith("_slot") else x for n, x in group.items()}  # noqa: E731
    ones = row.segment_ids + 1
    return dataclasses.replace(row, segment_ids=ones, media=used(row.media), values=used(row.values))


def _batch(row: Batch, num_rows: int, mesh: Mesh) -> Batch:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_rows, *x.shape[1:]), x.dtype), row)
    return placed(shapes, batch_placements(row, mesh))
