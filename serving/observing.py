"""What a robot sees, is told and feels, as the rows that its checkpoint was trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
class Observation:
    """images: uint8[H,W,3] each. proprio: float32[a], raw. embodiment: a name the checkpoint knows.

    goal: how things shall look, a picture from each camera, where the checkpoint was trained with goals; () = told in
    words alone, as an instruction of "" is told in pictures alone.
    running: float32[n,a], what is left of the chunk that the robot carries out, in its units, the next action first;
    a policy goes on with it where it finds no better. seed: of the noise that the chunk starts from; None: the policy
    counts its observations.
    """

    images: tuple[np.ndarray, ...]
    instruction: str
    proprio: np.ndarray
    embodiment: str
    goal: tuple[np.ndarray, ...] = ()
    running: np.ndarray | None = None
    seed: int | None = None


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
        images = max((len(source.cameras) * (1 + (source.goal != "language")) for source in sources), default=1)
        shape = dataclasses.replace(pipeline.row_shape(vocabulary), images=images, vectors=1, chunk_proprio=False)
        if pipeline.chunk_proprio:  # a local decoder learns from chunks of control steps; the policy's are its model's
            chunk = checkpoint.config["models"][phase["model"]]["robot"]["chunk"]
            shape = dataclasses.replace(shape, chunk=chunk)
        return cls({source.embodiment: source for source in sources}, shape, *next(iter(plans), (0, 0)))

    def plan(self, model: Any, batch: Batch, vocabulary: Vocabulary) -> jax.Array:
        """int32[B,L]: the most likely codes for the slots before proprioception, one number after the other."""
        rows_B, first = jnp.arange(batch.tokens.shape[0]), vocabulary.code_id(0)
        slot_BL = self._plan_slots(batch)
        for slot_B in slot_BL.T:
            hidden_BD = model(batch).hidden_BTD[rows_B, slot_B - 1]
            logits_BL = model.token_logits(hidden_BD)[:, first : first + self.plan_bins]
            code_B = first + jnp.argmax(logits_BL, axis=-1).astype(jnp.int32)
            batch = dataclasses.replace(batch, tokens=batch.tokens.at[rows_B, slot_B].set(code_B))
        return batch.tokens[rows_B[:, None], slot_BL] - first

    def with_plan(self, batch: Batch, codes_BL: jax.Array, vocabulary: Vocabulary) -> Batch:
        """The rows with these codes in them, and as numbers from -1 to 1 in front of the proprioception."""
        rows_B1 = jnp.arange(batch.tokens.shape[0])[:, None]
        tokens_BT = batch.tokens.at[rows_B1, self._plan_slots(batch)].set(vocabulary.code_id(0) + codes_BL)
        numbers_BL = (2 * codes_BL + 1) / self.plan_bins - 1  # of the middles of the bins
        proprio_BKA = batch.values["proprio"].at[:, 0, : self.plan_length].set(numbers_BL)
        return dataclasses.replace(batch, tokens=tokens_BT, values=batch.values | {"proprio": proprio_BKA})

    def _plan_slots(self, batch: Batch) -> jax.Array:
        slot_BL = batch.values["action_slot"][:, :1] - 1 - self.plan_length + jnp.arange(self.plan_length)
        return jnp.maximum(slot_BL, 1)  # rows without an observation


class Observer:
    """Observations to rows and predicted actions back to each robot's units, by the transforms of training."""

    def __init__(self, checkpoint: Checkpoint, model: LoadedModel):
        self.rows, image = ObservationRows.of(checkpoint, model.phase, model.vocabulary), model.config.image
        if image is None and self.rows.shape.images:
            raise ValueError(f"{checkpoint.path}: its sources have cameras, but its model takes no images")
        self.num_slots, self.vocabulary = image.num_slots if image else 0, model.vocabulary
        self.embodiments = {
            name: parse(EmbodimentConfig, section, f"embodiments.{name}")
            for name, section in checkpoint.config["embodiments"].items()
        }
        self.transforms = {name: Transform.from_dict(record) for name, record in checkpoint.transforms.items()}

    def observe(self, observations: Sequence[Observation], batch_size: int) -> tuple[list[Sample], Batch]:
        """Transformed samples, and their rows with empty ones up to `batch_size`; a plan stands in them as zeros.

        Raises ValueError for an embodiment the checkpoint does not know, a proprioception of the wrong size or not
        finite, an image of the wrong size, or an instruction too long for the rows.
        """
        samples = [self.prepare(observation) for observation in observations]
        rows = [lay_out([self.document(s, o)], self.rows.shape) for s, o in zip(samples, observations, strict=True)]
        return samples, collate(rows + [lay_out([], self.rows.shape)] * (batch_size - len(rows)))

    def in_units(self, sample: Sample, observation: Observation, actions_CA: np.ndarray) -> np.ndarray:
        """float32[C,a]: absolute actions of this robot from predicted ones."""
        width = self.embodiments[observation.embodiment].action_width
        inverse = self.transforms[observation.embodiment].inverse
        return inverse(sample | {"actions": actions_CA[:, :width]})["actions"]

    def prepare(self, observation: Observation) -> Sample:
        """What the transforms make of an observation."""
        name, sources = observation.embodiment, self.rows.sources
        if name not in sources:
            raise ValueError(f"embodiment is {name!r}; this checkpoint knows {', '.join(sources)}")
        cameras = sources[name].cameras
        if len(observation.images) != len(cameras):
            raise ValueError(f"images are {len(observation.images)}; {name} was trained with {len(cameras)}: {cameras}")
        width, proprio = self.embodiments[name].proprio_width, np.asarray(observation.proprio, np.float32)
        if proprio.shape != (width,) or not np.isfinite(proprio).all():
            raise ValueError(f"proprio is {proprio}; {name} has {width} finite numbers")
        _check_running(observation, self.embodiments[name].action_width)
        sample = {"images": observation.images, "proprio": proprio, "plan": np.zeros(self.rows.plan_length)}
        return self.transforms[name](sample | _told(observation, sources[name]))

    def document(self, sample: Sample, observation: Observation) -> Document:
        """The observation as training laid it out, with an empty chunk to be predicted after it."""
        robot, shape = self.embodiments[observation.embodiment], self.rows.shape
        document = observation_document(
            sample,
            vocabulary=self.vocabulary,
            embodiment=robot.index,
            num_slots=self.num_slots,
            plan_bins=self.rows.sources[observation.embodiment].form().plan_bins,
        )
        slots = cost_of(document).slots
        if slots > shape.slots:
            raise ValueError(
                f"instruction {observation.instruction!r} makes {slots} slots in all; rows of this checkpoint have "
                f"{shape.slots}; shorten it or train with more pipeline.slots"
            )
        nothing = np.zeros((shape.chunk, robot.action_width), np.float32)
        return (*document, Chunk(nothing, np.ones(nothing.shape, bool), robot.index))


def _told(observation: Observation, source: EpisodesConfig) -> Sample:
    """Words and pictures of the goal, as training showed them. Raises ValueError naming what is missing or too much."""
    goal, kind = observation.goal, source.goal
    cameras = len(source.cameras)
    if kind == "language" and goal:
        raise ValueError(f"goal has {len(goal)} pictures; {observation.embodiment} was trained with words alone")
    if kind == "language":
        return {"instruction": observation.instruction}
    if goal and len(goal) != cameras:
        raise ValueError(f"goal has {len(goal)} pictures; {observation.embodiment} was trained with {cameras}")
    words = (observation.instruction or None) if kind == "both" else None
    needed = kind == "image" or not source.goal_dropout or words is None
    if needed and not goal:
        raise ValueError(f"goal has no picture; {observation.embodiment} was trained with one from each of its cameras")
    if kind == "both" and not source.goal_dropout and words is None:
        raise ValueError(f"instruction is empty; {observation.embodiment} was trained with words and pictures together")
    return {"instruction": words} | ({"goal": goal} if goal else {})


def _check_running(observation: Observation, width: int) -> None:
    running = observation.running
    if running is not None and (running.ndim != 2 or running.shape[1] != width or not np.isfinite(running).all()):
        raise ValueError(
            f"running has shape {list(running.shape)} or is not finite; {observation.embodiment} takes finite actions "
            f"[n, {width}]"
        )
