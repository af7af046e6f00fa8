"""From a config to what the loop runs: model, objective, data and held-out evaluation of one phase."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from configs.schema import parse, to_plain
from data.batch import Batch
from data.pipeline import Pipeline, one_pass
from model.flops import train_flops, work_of
from model.model import axes_of, create, join, next_buffers, split
from model.quantization import rounded_weights
from sharding.mesh import batch_sharding, make_mesh, sequence_sharding
from sharding.processes import place_rows, row_share
from sharding.rules import param_shardings, shard_params
from train.abstract import placed
from train.checkpoint import Assets, Checkpoint
from train.config import PhaseConfig, TrainConfig
from train.distill_store.reader import Store
from train.distill_store.settings import data_settings
from train.fit import check_fit, check_teacher, options_of
from train.lora import Lora
from train.mesh_fit import check_mesh, stated_sizes
from train.objectives import OBJECTIVES
from train.objectives.distill_entries import Entries
from train.phases import Feed, Phase
from train.rollout.build import check_rollout, rollouts_of
from train.rows import Data, named
from train.sections import Sections
from train.step import Aux, TrainState
from train.teacher import Teacher, by_name


def check(config: ConfigDict) -> None:
    """Raises ValueError, naming the field, for what would stop any of the phases when its turn comes."""
    sections = Sections.of(config)
    plain: dict[str, Any] = config.to_dict()
    for name, section in plain["phases"].items():
        phase = parse(PhaseConfig, section, f"config.phases.{name}")
        options = options_of(f"config.phases.{name}", phase)
        check_fit(f"config.phases.{name}", phase, sections)
        if phase.teacher_phase is not None:
            taught_by = sections.models[plain["phases"][phase.teacher_phase]["model"]]
            check_teacher(f"config.phases.{name}", phase, sections.models[phase.model], taught_by)
        settings = parse(TrainConfig, plain["train"], "config.train")
        check_rollout(f"config.phases.{name}", phase, sections.sources, options.get("options"), settings)
        check_mesh(f"config.phases.{name}", phase, sections.models[phase.model], stated_sizes(sections.mesh))


def build_phase(config: ConfigDict, name: str, teacher: Checkpoint | None) -> Phase:
    """Model, objective and pipeline of phase `name`; `teacher` is the finished checkpoint that its config names."""
    sections = Sections.of(config)
    plain: dict[str, Any] = config.to_dict()
    phase = parse(PhaseConfig, plain["phases"][name], f"config.phases.{name}")
    model_config = sections.models[phase.model]
    options = options_of(f"config.phases.{name}", phase)
    check_fit(f"config.phases.{name}", phase, sections)
    mesh = make_mesh(sections.mesh)
    check_mesh(f"config.phases.{name}", phase, model_config, mesh.shape)
    with named("config.vocabulary"):
        vocabulary = sections.vocabulary.build()
    data = Data(sections, phase, vocabulary)
    if phase.rollout is not None:
        options |= {"text_size": vocabulary.text_size}
    model = jax.eval_shape(lambda: create(model_config, vocabulary.size, sections.seed))
    graph, *shapes = split(model)
    axes, buffer_axes = (by_name(tree) for tree in axes_of(model))

    def init() -> tuple[Any, Any]:
        _, params, buffers = split(create(model_config, vocabulary.size, sections.seed))
        return shard_params(params, axes, mesh), shard_params(buffers, buffer_axes, mesh)

    def abstract() -> tuple[Any, Any]:
        trees = zip(shapes, (axes, buffer_axes), strict=True)
        params, buffers = (placed(tree, param_shardings(tree, names, mesh)) for tree, names in trees)
        return params, buffers

    with named(f"config.phases.{name}.teacher"):
        taught_by = None if teacher is None else Teacher.of(teacher, vocabulary, mesh)
    if taught_by is not None:
        check_teacher(f"config.phases.{name}", phase, model_config, taught_by.config)
    constants = () if taught_by is None else taught_by.constants
    objective = objective_of(phase, options, graph, axes, model_config, taught_by)
    loss_fn, lora = objective, None
    if phase.lora is not None:
        with named(f"config.phases.{name}.lora"):
            lora = Lora(phase.lora, axes, sections.seed)
        joined = lora.graph(lambda: create(model_config, vocabulary.size, sections.seed))
        loss_fn = objective_of(phase, options, joined, axes, model_config, taught_by)
    placement = batch_sharding(mesh)
    samples = phase.options.get("samples", 1)
    share = row_share(mesh, jax.process_index())

    def place(batch: Batch) -> Batch:
        return jax.tree.map(lambda x, where: place_rows(x, where, share[1]), batch, batch_placements(batch, mesh))

    if phase.rollout is None:
        pipeline = phase.pipeline.build(data.sources("train"), phase.mixture, vocabulary, sections.seed)
        measured = _measured(phase, objective, graph, axes, model_config)
        evaluate = _evaluation(measured, data, phase, vocabulary, constants, mesh)
        feed = Feed(_taught(pipeline, config, name, phase, vocabulary), pipeline.first(), evaluate)
    else:
        learnt = (objective, options["options"], constants)
        parts = (data.sources("train"), data.sources("validation"))
        feed = rollouts_of(name, phase, *learnt, *parts, vocabulary, model_config, place, placement, sections.seed)
    return Phase(
        init=init,
        abstract=abstract,
        axes=axes,
        loss_fn=loss_fn,
        lora=lora,
        pipeline=feed.pipeline,
        assets=Assets(
            phase=name,
            config=to_plain(config),
            vocabulary=vocabulary.serialized,
            statistics={robot: statistics.to_dict() for robot, (_, statistics) in data.robots.items()},
            transforms={robot: data.stored_transform(robot).to_dict() for robot in data.robots},
            example_batch=feed.example_batch,
        ),
        place=place,
        flops=lambda batch: train_flops(model_config, vocabulary.size, work_of(batch, model_config, samples)),
        evaluate=feed.evaluate,
        constants=constants,
        collect=feed.collect,
        share=share,
    )


def _taught(pipeline: Pipeline, config: ConfigDict, name: str, phase: PhaseConfig, vocabulary) -> Pipeline:
    """The pipeline with what the phase's store holds of each row, where it names one."""
    if phase.teacher_store is None:
        return pipeline
    with named(f"config.phases.{name}.teacher"):
        store = Store(phase.teacher_store)
        steps = config.to_dict()["train"].get("steps") or phase.steps
        store.check(vocabulary, data_settings(config, name), steps * phase.pipeline.batch_size)
    return pipeline.annotated(store.add)


def objective_of(
    phase, options, graph, axes, model_config, teacher: Teacher | None
) -> Callable[..., tuple[jax.Array, Aux]]:
    """The objective as `loss_fn(params, buffers, batch, key, *constants) -> (total, Aux)` of `train.step`."""
    objective = OBJECTIVES[phase.objective]

    def loss_fn(params, buffers, batch, key, *constants):
        teaching = {} if teacher is None else {"teacher": teacher.model(*constants)}
        if phase.teacher_store is not None:
            teaching = {"teacher": None, "stored": Entries.of(batch)}
        if phase.quantize is not None:
            params = rounded_weights(params, axes, phase.quantize, tied_head=model_config.tied_head)
        loss = objective.loss(join(graph, params, buffers), batch, key, **options, **teaching)
        return loss.total, Aux(loss.weight, loss.metrics, next_buffers(model_config, buffers, loss.router))

    return loss_fn


def _measured(phase, objective, graph, axes, model_config) -> Callable[..., tuple[jax.Array, Aux]]:
    """What is measured on held-out rows: the objective; where a store teaches, which has none of them, the tokens'."""
    if phase.teacher_store is None:
        return objective
    plain = dataclasses.replace(phase, objective="next_token", teacher=None)
    return objective_of(plain, {}, graph, axes, model_config, None)


def batch_placements(batch: Batch, mesh: Mesh) -> Batch:
    """Where the arrays of a batch lie: what holds one entry for each slot is spread over the context axis too."""
    rows, slots = batch_sharding(mesh), sequence_sharding(mesh)
    fields: dict[str, Any] = {field.name: slots for field in dataclasses.fields(batch)}
    fields["media"] = dict.fromkeys(batch.media, rows)
    fields["values"] = {name: slots if name.startswith("teacher_") else rows for name in batch.values}
    return Batch(**fields)


def _evaluation(loss_fn, data: Data, phase: PhaseConfig, vocabulary, constants, mesh: Mesh):
    """Losses on what the sources hold out, one pass in a fixed order; None where nothing is held out."""
    held_out = data.sources("validation")
    if not held_out:
        return None
    shape = phase.pipeline.row_shape(vocabulary)

    @jax.jit
    def losses(params, buffers, batch: Batch, constants) -> Mapping[str, Any]:
        _, aux = loss_fn(params, buffers, batch, jax.random.key(0), *constants)
        return {name: ratio for name, ratio in aux.metrics.items() if name.startswith(("loss/", "accuracy/"))}

    def evaluate(state: TrainState) -> dict[str, float]:
        sums: dict[str, np.ndarray] = {}
        for source in held_out.values():
            for batch in one_pass(source, shape, phase.pipeline.batch_size):
                if mesh.size > 1:
                    placements = batch_placements(batch, mesh)
                    batch = jax.tree.map(lambda x, where: place_rows(x, where, 1), batch, placements)
                with jax.set_mesh(mesh):
                    found = jax.device_get(losses(state.ema or state.params, state.buffers, batch, constants))
                for name, ratio in found.items():
                    sums[name] = sums.get(name, np.zeros(2)) + np.array(ratio)
        return {name: float(total / weight) for name, (total, weight) in sums.items() if weight}

    return evaluate
