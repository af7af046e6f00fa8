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
from data.layout import collate, cost_of, lay_out
from data.robots import EmbodimentConfig, EpisodesConfig
from data.transforms import Sample, Transform
from serving.model import LoadedModel
from train.checkpoint import Checkpoint


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
        pipeline = parse(PipelineConfig, self._model.phase["pipeline"], "pipeline")
        mixed = {name: checkpoint.config["sources"][name] for name in self._model.phase["mixture"]}
        sources = [parse(EpisodesConfig, s, f"sources.{name}") for name, s in mixed.items() if "embodiment" in s]
        self._sources = {source.embodiment: source for source in sources}
        plans = {(source.plan_length, source.plan_bins) for source in sources}
        if len(plans) > 1:
            raise ValueError(f"plan_length and plan_bins of {checkpoint.path} differ: {plans}; make them equal")
        self._plan_length, self._plan_bins = next(iter(plans), (0, 0))
        images = max((len(source.cameras) for source in sources), default=1)
        self._shape = dataclasses.replace(pipeline.row_shape(self._model.vocabulary), images=images, vectors=1)
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
            num_slots=image.num_patches,
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
        model, values = self._model.module(params, buffers), batch.values
        output = model(batch, want_keys_values=True)
        if self._model.config.flow is None:
            slot_BK1 = jnp.maximum(values["action_slot"], 0)[..., None]
            return model.bins.predict(jnp.take_along_axis(output.hidden_BTD, slot_BK1, axis=1))[:, 0]
        noise_BKCA = jax.random.normal(key, values["action"].shape) * values["action_mask"]
        prefix = model.action_prefix(output, values)
        return model.flow.sample(noise_BKCA, values["embodiment"], prefix)[:, 0]

    def _plan(self, params: Any, buffers: Any, batch: Batch) -> jax.Array:
        """int32[B,L]: the most likely codes for the slots before proprioception, one number after the other."""
        model, rows_B = self._model.module(params, buffers), jnp.arange(batch.tokens.shape[0])
        first = self._model.vocabulary.code_id(0)
        slot_BL = batch.values["action_slot"][:, :1] - 1 - self._plan_length + jnp.arange(self._plan_length)
        slot_BL = jnp.maximum(slot_BL, 1)  # rows without an observation
        for slot_B in slot_BL.T:
            hidden_BD = model(batch).hidden_BTD[rows_B, slot_B - 1]
            logits_BL = model.token_logits(hidden_BD)[:, first : first + self._plan_bins]
            code_B = first + jnp.argmax(logits_BL, axis=-1).astype(jnp.int32)
            batch = dataclasses.replace(batch, tokens=batch.tokens.at[rows_B, slot_B].set(code_B))
        return batch.tokens[rows_B[:, None], slot_BL] - first
