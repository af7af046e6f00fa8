"""From a config to what the loop runs: model, objective, data and held-out evaluation of one phase."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs.schema import parse, to_plain
from data.batch import Batch
from data.config import PipelineConfig, TextConfig, VocabularyConfig
from data.pipeline import one_pass
from data.robots import EmbodimentConfig, EpisodesConfig, PointingConfig, Split, transform_of
from data.source import Source
from data.vocabulary import Vocabulary
from model.config import ModelConfig
from model.flops import train_flops, work_of
from model.model import axes_of, create, join, next_buffers, split
from sharding.mesh import MeshConfig, batch_sharding, make_mesh
from sharding.rules import shard_params
from train.checkpoint import Assets, Checkpoint
from train.config import PhaseConfig
from train.objectives import OBJECTIVES
from train.optimizer import parameter_names
from train.phases import Phase
from train.step import Aux, TrainState

SourceConfig = TextConfig | EpisodesConfig | PointingConfig
CACHE = pathlib.Path(".cache/tokens")


@dataclasses.dataclass(frozen=True)
class Sections:
    """The checked sections that describe data and models."""

    seed: int
    mesh: MeshConfig
    vocabulary: VocabularyConfig
    sources: dict[str, SourceConfig]
    models: dict[str, ModelConfig]
    embodiments: dict[str, EmbodimentConfig] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, config: ConfigDict) -> Sections:
        """Raises ValueError naming the field that is wrong."""
        names = {field.name for field in dataclasses.fields(cls)}
        sections = parse(cls, {k: v for k, v in config.items() if k in names}, "config")
        indices = [e.index for e in sections.embodiments.values()]
        if sorted(indices) != list(range(len(indices))):
            raise ValueError(f"config.embodiments have the indices {indices}; give each its own, counted from 0")
        for name, source in sections.sources.items():
            if isinstance(source, EpisodesConfig) and source.embodiment not in sections.embodiments:
                raise ValueError(
                    f"config.sources.{name}.embodiment is {source.embodiment!r}; config.embodiments has "
                    f"{', '.join(sections.embodiments) or 'none'}"
                )
        return sections


def check_fit(where: str, model: ModelConfig, pipeline: PipelineConfig, num_embodiments: int) -> None:
    """Raises ValueError where the rows of a phase and its model do not have the same sizes."""
    image = (model.image.height, model.image.width) if model.image else None
    robot = (model.robot.width, model.robot.chunk) if model.robot else None
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


def build_phase(config: ConfigDict, name: str, teacher: Checkpoint | None) -> Phase:
    """Model, objective and pipeline of phase `name`; `teacher` is the finished checkpoint that its config names."""
    sections = Sections.of(config)
    phase = parse(PhaseConfig, config.phases[name].to_dict(), f"config.phases.{name}")
    model_config = sections.models[phase.model]
    check_fit(f"config.phases.{name}", model_config, phase.pipeline, len(sections.embodiments))
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

    objective = _objective(phase, graph, model_config, sections, vocabulary, teacher)
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


class _Data:
    """The sources of one phase, with one transform for each embodiment."""

    def __init__(self, sections: Sections, phase: PhaseConfig, vocabulary: Vocabulary):
        self.sections, self.phase, self.vocabulary = sections, phase, vocabulary
        episodes = [s for s in sections.sources.values() if isinstance(s, EpisodesConfig)]
        self.robots = {
            robot: transform_of(config, robot, source)
            for robot, config in sections.embodiments.items()
            for source in [next((s for s in episodes if s.embodiment == robot), None)]
            if source is not None
        }

    def sources(self, part: Split) -> dict[str, Source]:
        """The sources that have documents in this part, by name."""
        chosen = {name: self.sections.sources[name] for name in self.phase.mixture}
        return {n: self._build(s, part) for n, s in chosen.items() if part == "train" or s.holdout}

    def _build(self, source: SourceConfig, part: Split) -> Source:
        if isinstance(source, TextConfig):
            return source.build(self.vocabulary, self.phase.pipeline.slots, CACHE, part)
        if isinstance(source, PointingConfig):
            return source.build(self.vocabulary, self.sections.seed, part)
        embodiment = self.sections.embodiments[source.embodiment].embodiment(source.embodiment)
        return source.build(embodiment, self.robots[source.embodiment][0], self.vocabulary, part)


def _objective(phase, graph, model_config, sections, vocabulary, teacher) -> Callable[..., tuple[jax.Array, Aux]]:
    """The objective as `loss_fn(params, buffers, batch, key, *constants) -> (total, Aux)` of `train.step`."""
    module = OBJECTIVES[phase.objective]
    where = f"config.phases.*.options of objective {phase.objective}"
    extra: dict[str, Any] = {}
    if hasattr(module, "Options"):
        extra["options"] = parse(module.Options, phase.options, where)
    elif phase.options:
        raise ValueError(f"{where} are {phase.options}; this objective has none, remove them")
    teacher_graph: Any = None
    if teacher is not None:
        name = teacher.config["phases"][teacher.phase]["model"]
        teacher_config = parse(ModelConfig, teacher.config["models"][name], "teacher's model")
        teacher_graph, _, _ = split(jax.eval_shape(lambda: create(teacher_config, vocabulary.size, sections.seed)))

    def loss_fn(params, buffers, batch, key, *constants):
        if teacher is not None:
            extra["teacher"] = join(teacher_graph, *constants)
        loss = module.loss(join(graph, params, buffers), batch, key, **extra)
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
