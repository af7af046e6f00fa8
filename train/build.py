"""From a config to what the loop runs: model, objective, data and held-out evaluation of one phase."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs.schema import parse, to_plain
from data.batch import Batch
from data.config import TextConfig
from data.pipeline import one_pass
from data.robots import EpisodesConfig, PointingConfig, Split, transform_of
from data.source import Source
from data.statistics import Statistics
from data.transforms import Transform
from data.vocabulary import Vocabulary
from model.config import ModelConfig
from model.flops import train_flops, work_of
from model.model import axes_of, create, join, next_buffers, split
from sharding.mesh import batch_sharding, make_mesh
from sharding.rules import shard_params
from train.checkpoint import Assets, Checkpoint
from train.config import PhaseConfig
from train.objectives import OBJECTIVES
from train.optimizer import parameter_names
from train.phases import Phase
from train.sections import Sections, SourceConfig
from train.step import Aux, TrainState

CACHE = pathlib.Path(".cache/tokens")


def check(config: ConfigDict) -> None:
    """Raises ValueError, naming the field, for what would stop any of the phases when its turn comes."""
    sections = Sections.of(config)
    plain: dict[str, Any] = config.to_dict()
    for name, section in plain["phases"].items():
        phase = parse(PhaseConfig, section, f"config.phases.{name}")
        _options(f"config.phases.{name}", phase)
        _check_fit(f"config.phases.{name}", phase, sections)


def _options(where: str, phase: PhaseConfig) -> dict[str, Any]:
    """The settings that the objective takes besides model, batch and key."""
    module = OBJECTIVES[phase.objective]
    if hasattr(module, "Options"):
        return {"options": parse(module.Options, phase.options, f"{where}.options")}
    if phase.options:
        raise ValueError(f"{where}.options are {phase.options}; objective {phase.objective!r} has none, remove them")
    return {}


def _check_fit(where: str, phase: PhaseConfig, sections: Sections) -> None:
    """Raises ValueError where the rows of a phase, its objective and its model do not go together."""
    model, pipeline, num_embodiments = sections.models[phase.model], phase.pipeline, len(sections.embodiments)
    image = (model.image.height, model.image.width) if model.image else None
    robot = (model.robot.width, model.robot.chunk) if model.robot else None
    if model.num_codes not in (0, sections.vocabulary.num_codes):
        raise ValueError(
            f"{where}.model has num_codes {model.num_codes}, config.vocabulary {sections.vocabulary.num_codes}; make "
            "them equal, or 0 where codes are no numbers in order"
        )
    if pipeline.images and pipeline.image_size != image:
        raise ValueError(
            f"{where}.pipeline.image_size is {pipeline.image_size}, its model takes {image or 'no images'}; make them "
            "equal, or set pipeline.images to 0"
        )
    if pipeline.vectors and robot and (pipeline.width, pipeline.chunk or robot[1]) != robot:
        raise ValueError(
            f"{where}.pipeline width and chunk are {pipeline.width, pipeline.chunk}, its model has {robot}; make them "
            "equal"
        )
    if pipeline.vectors and not robot:
        raise ValueError(f"{where}.pipeline.vectors is {pipeline.vectors}, its model takes none; give it `robot`")
    if model.robot and model.robot.num_embodiments != num_embodiments:
        raise ValueError(
            f"{where}.model has robot.num_embodiments {model.robot.num_embodiments}, config.embodiments has "
            f"{num_embodiments}; make them equal"
        )
    if phase.objective in ("bins", "flow"):
        if getattr(model, phase.objective) is None:
            raise ValueError(
                f"{where}.objective is {phase.objective!r}, its model has no such head; give "
                f"config.models.{phase.model} the section {phase.objective}"
            )
        if not pipeline.chunk:
            raise ValueError(f"{where}.pipeline.chunk is 0, objective {phase.objective!r} needs actions; set it")
    for name in phase.mixture:
        source = sections.sources[name]
        if model.image and not isinstance(source, TextConfig) and source.num_slots != model.image.num_slots:
            raise ValueError(
                f"config.sources.{name}.num_slots is {source.num_slots}, the model of {where} makes "
                f"{model.image.num_slots} vectors of an image; make them equal"
            )
        if isinstance(source, EpisodesConfig) and source.continuous and source.chunk != pipeline.chunk:
            raise ValueError(
                f"config.sources.{name}.chunk is {source.chunk}, {where}.pipeline.chunk is {pipeline.chunk}; make them "
                "equal"
            )


def build_phase(config: ConfigDict, name: str, teacher: Checkpoint | None) -> Phase:
    """Model, objective and pipeline of phase `name`; `teacher` is the finished checkpoint that its config names."""
    sections = Sections.of(config)
    plain: dict[str, Any] = config.to_dict()
    phase = parse(PhaseConfig, plain["phases"][name], f"config.phases.{name}")
    model_config = sections.models[phase.model]
    options = _options(f"config.phases.{name}", phase)
    _check_fit(f"config.phases.{name}", phase, sections)
    with _named("config.vocabulary"):
        vocabulary = sections.vocabulary.build()
    data = _Data(sections, phase, vocabulary)
    pipeline = phase.pipeline.build(data.sources("train"), phase.mixture, vocabulary, sections.seed)
    mesh = make_mesh(sections.mesh)
    model = jax.eval_shape(lambda: create(model_config, vocabulary.size, sections.seed))
    graph, _params, _ = split(model)
    axes, buffer_axes = (_by_name(tree) for tree in axes_of(model))

    def init() -> tuple[Any, Any]:
        _, params, buffers = split(create(model_config, vocabulary.size, sections.seed))
        return shard_params(params, axes, mesh), shard_params(buffers, buffer_axes, mesh)

    objective = _objective(phase.objective, options, graph, model_config, sections.seed, vocabulary.size, teacher)
    placement = batch_sharding(mesh)
    samples = phase.options.get("samples", 1)
    return Phase(
        init=init,
        axes=axes,
        loss_fn=objective,
        pipeline=pipeline,
        assets=Assets(
            phase=name,
            config=to_plain(config),
            vocabulary=vocabulary.serialized,
            statistics={robot: statistics.to_dict() for robot, (_, statistics) in data.robots.items()},
            transforms={robot: transform.to_dict() for robot, (transform, _) in data.robots.items()},
            example_batch=next(pipeline.iterator()),
        ),
        place=lambda batch: jax.tree.map(lambda x: jax.make_array_from_process_local_data(placement, x), batch),
        flops=lambda batch: train_flops(model_config, vocabulary.size, work_of(batch, model_config, samples)),
        evaluate=_evaluation(objective, data, phase, vocabulary, _constants(teacher)),
        constants=_constants(teacher),
    )


@contextlib.contextmanager
def _named(where: str):
    """Errors of what a section builds begin with the section's name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


class _Data:
    """The sources of one phase, with one transform for each embodiment."""

    def __init__(self, sections: Sections, phase: PhaseConfig, vocabulary: Vocabulary):
        self.sections, self.phase, self.vocabulary = sections, phase, vocabulary
        self.robots: dict[str, tuple[Transform, Statistics]] = {}
        for name, source in sections.sources.items():
            if isinstance(source, EpisodesConfig) and source.embodiment not in self.robots:
                robot = source.embodiment
                with _named(f"config.sources.{name}"):
                    self.robots[robot] = transform_of(sections.embodiments[robot], robot, source)

    def sources(self, part: Split) -> dict[str, Source]:
        """The sources that have documents in this part, by name."""
        found = {}
        for name in self.phase.mixture:
            source = self.sections.sources[name]
            if part == "train" or source.holdout:
                with _named(f"config.sources.{name}"):
                    found[name] = self._build(source, part)
        return found

    def _build(self, source: SourceConfig, part: Split) -> Source:
        if isinstance(source, TextConfig):
            return source.build(self.vocabulary, self.phase.pipeline.slots, CACHE, part)
        if isinstance(source, PointingConfig):
            return source.build(self.vocabulary, self.sections.seed, part)
        embodiment = self.sections.embodiments[source.embodiment].embodiment(source.embodiment)
        return source.build(embodiment, self.robots[source.embodiment][0], self.vocabulary, part)


def _objective(name, options, graph, model_config, seed, vocab_size, teacher) -> Callable[..., tuple[jax.Array, Aux]]:
    """The objective as `loss_fn(params, buffers, batch, key, *constants) -> (total, Aux)` of `train.step`."""
    teacher_graph: Any = None
    if teacher is not None:
        section = teacher.config["phases"][teacher.phase]["model"]
        teacher_config = parse(ModelConfig, teacher.config["models"][section], "teacher's model")
        teacher_graph, _, _ = split(jax.eval_shape(lambda: create(teacher_config, vocab_size, seed)))

    def loss_fn(params, buffers, batch, key, *constants):
        teaching = {} if teacher is None else {"teacher": join(teacher_graph, *constants)}
        loss = OBJECTIVES[name].loss(join(graph, params, buffers), batch, key, **options, **teaching)
        return loss.total, Aux(loss.weight, loss.metrics, next_buffers(model_config, buffers, loss.router))

    return loss_fn


def _constants(teacher: Checkpoint | None) -> tuple[Any, ...]:
    return () if teacher is None else (jax.tree.map(jax.numpy.asarray, (teacher.weights, teacher.buffers)))


def _evaluation(loss_fn, data: _Data, phase: PhaseConfig, vocabulary, constants):
    """Losses on what the sources hold out, one pass in a fixed order; None where nothing is held out."""
    held_out = data.sources("validation")
    if not held_out:
        return None
    shape = phase.pipeline.row_shape(vocabulary)

    @jax.jit
    def losses(params, buffers, batch: Batch, constants) -> Mapping[str, Any]:
        _, aux = loss_fn(params, buffers, batch, jax.random.key(0), *constants)
        return {name: ratio for name, ratio in aux.metrics.items() if name.startswith("loss/")}

    def evaluate(state: TrainState) -> dict[str, float]:
        sums: dict[str, np.ndarray] = {}
        for source in held_out.values():
            for batch in one_pass(source, shape, phase.pipeline.batch_size):
                found = jax.device_get(losses(state.ema or state.params, state.buffers, batch, constants))
                for name, ratio in found.items():
                    sums[name] = sums.get(name, np.zeros(2)) + np.array(ratio)
        return {name: float(total / weight) for name, (total, weight) in sums.items() if weight}

    return evaluate


def _by_name(tree: Any) -> dict[str, tuple[str | None, ...]]:
    """Axes by the name of the parameter they belong to."""
    is_axes = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    names = parameter_names(jax.tree.map(lambda _: 0, tree, is_leaf=is_axes))
    return dict(zip(jax.tree.leaves(names), jax.tree.leaves(tree, is_leaf=is_axes), strict=True))
