"""A policy: what a robot sees, is told and feels -> the next actions, in its own units."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs.schema import parse
from data.batch import Batch
from data.config import PipelineConfig
from data.elements import Chunk, Document
from data.episodes import observation_document
from data.layout import RowShape, collate, cost_of, lay_out
from data.robots import EmbodimentConfig, EpisodesConfig
from data.transforms import Sample, Transform
from data.vocabulary import Vocabulary
from serving.model import LoadedModel
from train.checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True)
class ObservationRows:
    """How a checkpoint's observations become rows: `shape`, and a plan of `plan_length` codes among `plan_bins`."""

    sources: dict[str, EpisodesConfig]  # by embodiment
    shape: RowShape
    plan_length: int
    plan_bins: int

    @classmethod
    def of(cls, checkpoint: Checkpoint, phase: dict[str, Any], vocabulary: Vocabulary) -> ObservationRows:
        """Raises ValueError where the sources of `phase` plan differently."""
        pipeline = parse(PipelineConfig, phase["pipeline"], "pipeline")
        mixed = {name: checkpoint.config["sources"][name] for name in phase["mixture"]}
        sources = [parse(EpisodesConfig, s, f"sources.{name}") for name, s in mixed.items() if "embodiment" in s]
        plans = {(source.plan_length, source.plan_bins) for source in sources}
        if len(plans) > 1:
            raise ValueError(f"plan_length and plan_bins of {checkpoint.path} differ: {plans}; make them equal")
        images = max((len(source.cameras) for source in sources), default=1)
        shape = dataclasses.replace(pipeline.row_shape(vocabulary), images=images, vectors=1)
        return cls({source.embodiment: source for source in sources}, shape, *next(iter(plans), (0, 0)))

    def plan(self, model: Any, batch: Batch, vocabulary: Vocabulary) -> jax.Array:
        """int32[B,L]: the most likely codes for the slots before proprioception, one number after the other."""
        rows_B, first = jnp.arange(batch.tokens.shape[0]), vocabulary.code_id(0)
        slot_BL = batch.values["action_slot"][:, :1] - 1 - self.plan_length + jnp.arange(self.plan_length)
        slot_BL = jnp.maximum(slot_BL, 1)  # rows without an observation
        for slot_B in slot_BL.T:
            hidden_BD = model(batch).hidden_BTD[rows_B, slot_B - 1]
            logits_BL = model.token_logits(hidden_BD)[:, first : first + self.plan_bins]
            code_B = first + jnp.argmax(logits_BL, axis=-1).astype(jnp.int32)
            batch = dataclasses.replace(batch, tokens=batch.tokens.at[rows_B, slot_B].set(code_B))
        return batch.tokens[rows_B[:, None], slot_BL] - first


def normalised_chunks(model: Any, batch: Batch, noise_BKCA: jax.Array | None) -> jax.Array:
    """float32[B,C,A] before the transforms are undone; `noise_BKCA` is what a flow-matching head starts from."""
    output, values = model(batch, want_keys_values=True), batch.values
    if noise_BKCA is None:
        slot_BK1 = jnp.maximum(values["action_slot"], 0)[..., None]
        return model.bins.predict(jnp.take_along_axis(output.hidden_BTD, slot_BK1, axis=1))[:, 0]
    noise_BKCA = noise_BKCA * values["action_mask"]
    return model.flow.sample(noise_BKCA, values["embodiment"], model.action_prefix(output, values))[:, 0]


@dataclasses.dataclass(frozen=True)
class Observation:
    """images: uint8[H,W,3] each. proprio: float32[a], raw. embodiment: a name the checkpoint knows."""

    images: tuple[np.ndarray, ...]
    instruction: str
    proprio: np.ndarray
    embodiment: str


class Policy:
    """Chunks of actions from a checkpoint with an action head; the transforms are those it was trained with.

    batch_size: observations that one compiled call takes; more are cut into several calls, fewer are padded.
    """

    def __init__(self, checkpoint: Checkpoint, *, batch_size: int = 1, seed: int = 0, untrained: bool = False):
        self._model = LoadedModel.of(checkpoint, untrained=untrained)
        config = self._model.config
        if config.flow is None and config.bins is None:
            raise ValueError(
                f"{checkpoint.path} is of phase {checkpoint.phase!r}, whose model has no action head; "
                "give a phase whose model has `flow` or `bins`"
            )
        self.embodiments = {
            name: parse(EmbodimentConfig, section, f"embodiments.{name}")
            for name, section in checkpoint.config["embodiments"].items()
        }
        self.transforms = {name: Transform.from_dict(record) for name, record in checkpoint.transforms.items()}
        rows = ObservationRows.of(checkpoint, self._model.phase, self._model.vocabulary)
        self._rows, self._sources, self._shape, self._plan_length = rows, rows.sources, rows.shape, rows.plan_length
        self._batch_size, self._key = batch_size, jax.random.key(seed)
        self._plans, self._chunks = jax.jit(self._plan), jax.jit(self._sample)

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> Policy:
        """From `<workdir>/<phase>` or one checkpoint in it. Raises ValueError where there is none."""
        return cls(Checkpoint.open(path), **options)

    def act(self, observations: Sequence[Observation]) -> list[np.ndarray]:
        """float32[C,a] for each observation: absolute actions in the robot's units, one a control step.

        Raises ValueError for an embodiment the checkpoint does not know, a proprioception of the wrong size or not
        finite, an image of the wrong size, or an instruction too long for the model's rows.
        """
        chunks: list[np.ndarray] = []
        for start in range(0, len(observations), self._batch_size):
            chunks += self._act(observations[start : start + self._batch_size])
        return chunks

    def _act(self, observations: Sequence[Observation]) -> list[np.ndarray]:
        samples = [self._prepare(observation) for observation in observations]
        weights = self._model.params, self._model.buffers
        if self._plan_length:
            codes_BL = np.asarray(self._plans(*weights, self._batch(samples, observations)))
            for i, observation in enumerate(observations):
                samples[i] |= {"plan": self._bins(observation).decode(codes_BL[i])}
        self._key, key = jax.random.split(self._key)
        actions_BCA = np.asarray(self._chunks(*weights, self._batch(samples, observations), key))
        results = []
        for sample, observation, actions_CA in zip(samples, observations, actions_BCA, strict=False):
            width = self.embodiments[observation.embodiment].action_width
            result = self.transforms[observation.embodiment].inverse(sample | {"actions": actions_CA[:, :width]})
            results.append(result["actions"])
        return results

    def _batch(self, samples: Sequence[Sample], observations: Sequence[Observation]) -> Batch:
        rows = [lay_out([self._document(s, o)], self._shape) for s, o in zip(samples, observations, strict=True)]
        return collate(rows + [lay_out([], self._shape)] * (self._batch_size - len(rows)))

    def _bins(self, observation: Observation) -> Any:
        return self._sources[observation.embodiment].form().plan_bins

    def _prepare(self, observation: Observation) -> Sample:
        name = observation.embodiment
        if name not in self._sources:
            raise ValueError(f"embodiment is {name!r}; this checkpoint knows {', '.join(self._sources)}")
        cameras = self._sources[name].cameras
        if len(observation.images) != len(cameras):
            raise ValueError(f"images are {len(observation.images)}; {name} was trained with {len(cameras)}: {cameras}")
        width, proprio = self.embodiments[name].proprio_width, np.asarray(observation.proprio, np.float32)
        if proprio.shape != (width,) or not np.isfinite(proprio).all():
            raise ValueError(f"proprio is {proprio}; {name} has {width} finite numbers")
        sample = {"images": observation.images, "instruction": observation.instruction, "proprio": proprio}
        return self.transforms[name](sample | {"plan": np.zeros(self._plan_length)})

    def _document(self, sample: Sample, observation: Observation) -> Document:
        image = self._model.config.image
        if image is None:
            raise ValueError("this checkpoint's model takes no images")
        robot = self.embodiments[observation.embodiment]
        document = observation_document(
            sample,
            vocabulary=self._model.vocabulary,
            embodiment=robot.index,
            num_slots=image.num_slots,
            plan_bins=self._bins(observation),
        )
        slots = cost_of(document).slots
        if slots > self._shape.slots:
            raise ValueError(
                f"instruction {observation.instruction!r} makes {slots} slots; rows of this checkpoint have "
                f"{self._shape.slots}; shorten it or train with more pipeline.slots"
            )
        chunk, width = self._shape.chunk, robot.action_width
        nothing = np.zeros((chunk, width), np.float32)
        return (*document, Chunk(nothing, np.ones((chunk, width), bool), robot.index))

    def _sample(self, params: Any, buffers: Any, batch: Batch, key: jax.Array) -> jax.Array:
        flow = self._model.config.flow is not None
        noise_BKCA = jax.random.normal(key, batch.values["action"].shape) if flow else None
        return normalised_chunks(self._model.module(params, buffers), batch, noise_BKCA)

    def _plan(self, params: Any, buffers: Any, batch: Batch) -> jax.Array:
        return self._rows.plan(self._model.module(params, buffers), batch, self._model.vocabulary)
