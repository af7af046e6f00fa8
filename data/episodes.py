"""Robot episodes as documents: what the robot sees, is told and feels, then the actions that follow.

`<bos> [images] instruction (<point> plan) <proprioception> <action>`, then the actions as a continuous chunk predicted
from the `<action>` slot, as code tokens, or both. A plan names the points that matter before anything is done about
them, as in the reasoning-enhanced variant of Gemini Robotics (arXiv 2503.20020). It stands in the document twice: as
codes, which the model predicts, and as numbers beside the proprioception, which actions can be computed from.
`observation_document` alone builds the part before the actions, so training, evaluation and serving show the model the
same thing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from data.action_codes import ActionCodes
from data.augment import AugmentConfig, augmented
from data.elements import Chunk, CorruptRecord, Document, Image, Tokens, Vector
from data.goals import GOAL, Goal, later_step
from data.ranges import FrameRanges
from data.robot_dataset import RobotDataset
from data.statistics import Statistics
from data.transforms import Bins, Compose, Normalise, Sample, Transform


class PromptVocabulary(Protocol):
    """The part of a vocabulary that documents need."""

    @property
    def bos_id(self) -> int: ...
    @property
    def num_codes(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def piece_id(self, piece: str) -> int: ...
    def code_id(self, code: int) -> int: ...
    def code_of(self, token: int) -> int: ...


@dataclasses.dataclass(frozen=True)
class Embodiment:
    """A robot as the model knows it: its index and how many numbers it feels and commands."""

    name: str
    index: int
    proprio_width: int
    action_width: int


@dataclasses.dataclass(frozen=True)
class EpisodeFormat:
    """What of an episode enters a document, and in which form actions are predicted.

    Raises ValueError for sizes below 1, half a plan, and codes of other chunks.
    """

    num_slots: int  # slots an image fills
    cameras: tuple[str, ...] = ("observation.images.front",)
    proprio: str = "observation.state"
    action: str = "action"
    chunk_length: int = 16
    continuous: bool = True  # predict the chunk as continuous values
    codes: ActionCodes | None = None  # the chunk as code tokens after the observation
    token_weight: float = 1.0
    stride: int = 1  # every stride-th frame of an episode becomes a document
    plan: str | None = None  # feature with points y, x, ... in 0..1000 that the model names before it acts
    plan_bins: Bins | None = None
    goal: Goal = dataclasses.field(default_factory=Goal)

    def __post_init__(self):
        if (self.plan is None) != (self.plan_bins is None):
            raise ValueError("episode format: plan and plan_bins go together; give both or neither")
        if self.chunk_length < 1 or self.stride < 1 or self.num_slots < 1:
            raise ValueError(f"{self}: chunk_length, stride and num_slots must be at least 1")
        if self.codes is not None:
            self.codes.refuse_other_chunk(self.chunk_length)


def observation_document(
    sample: Sample,
    *,
    vocabulary: PromptVocabulary,
    embodiment: int,
    num_slots: int,
    plan_bins: Bins | None = None,
    plan_weight: float = 0.0,
) -> Document:
    """The part of a document before the actions; the last slot, `<action>`, is where they are predicted from.

    sample: `images` (tuple of uint8[H,W,3]), `instruction` (None = not told) and `proprio` (float32[a]), already
    transformed; `goal`, pictures of how things shall look, may be left out. With `plan_bins` also `plan`, the points
    y, x, ... named before acting: the only targets in it, and again, from -1 to 1, in front of the proprioception.
    """
    goal: Document = ()
    if sample.get("goal"):
        goal = (_prompt([vocabulary.piece_id(GOAL)]), *(Image(pixels, num_slots) for pixels in sample["goal"]))
    words = () if sample["instruction"] is None else (_prompt(words_of(sample["instruction"], vocabulary)),)
    plan: Document = ()
    vector = sample["proprio"]
    if plan_bins is not None:
        codes = place_tokens(sample["plan"], plan_weight, plan_bins, vocabulary)
        plan = (_prompt([vocabulary.piece_id("<point>")]), codes)
        vector = np.concatenate([_as_numbers(sample["plan"], plan_bins), vector])
    return (
        _prompt([vocabulary.bos_id]),
        *(Image(pixels, num_slots) for pixels in sample["images"]),
        *goal,
        *words,
        *plan,
        Vector(vector, embodiment),
        _prompt([vocabulary.piece_id("<action>")]),
    )


def vector_of(document: Document) -> np.ndarray:
    """The numbers that an observation's document shows the model, float32[p]."""
    return next(element.values for element in document if isinstance(element, Vector))


def with_proprio(vector: np.ndarray, proprio: np.ndarray) -> np.ndarray:
    """The vector of the same look with other proprioception [...,a] in it: float32[...,p]."""
    plan = vector[: len(vector) - proprio.shape[-1]]
    return np.concatenate([np.broadcast_to(plan, (*proprio.shape[:-1], len(plan))), proprio], axis=-1)


def place_tokens(place: Sequence[float], weight: float, bins: Bins, vocabulary: PromptVocabulary) -> Tokens:
    """y, then x, of each point as code tokens."""
    ids = [vocabulary.code_id(int(k)) for k in bins.encode(np.asarray(place))]
    return Tokens(np.array(ids, np.int32), np.full(len(ids), weight, np.float32), "point")


def _as_numbers(place: np.ndarray, bins: Bins) -> np.ndarray:
    """What is left of a place once it has been said in codes, from -1 to 1."""
    said = bins.decode(bins.encode(place))
    return (2 * (said - bins.low) / (bins.high - bins.low) - 1).astype(np.float32)


@functools.lru_cache(maxsize=2**16)  # few sentences stand in many documents
def words_of(text: str, vocabulary: PromptVocabulary) -> tuple[int, ...]:
    """Ids of a text as it stands inside a sentence, so that a word has one id wherever it occurs."""
    return tuple(vocabulary.encode(f" {text.strip()}"))


def _prompt(ids: Sequence[int]) -> Tokens:
    return Tokens(np.array(ids, np.int32), np.zeros(len(ids), np.float32))


def action_tokens(
    actions_CA: np.ndarray, valid_C: np.ndarray, codes: ActionCodes, weight: float, vocabulary: PromptVocabulary
) -> Tokens:
    """A transformed chunk as code tokens; steps past the episode's end weigh nothing."""
    found, share = codes.encode(actions_CA, valid_C)
    first = codes.first(vocabulary.num_codes)
    return Tokens(np.array([vocabulary.code_id(first + int(k)) for k in found], np.int32), share * weight, "action")


def chunk_rows(step: np.ndarray | int, length: np.ndarray | int, chunk_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of the chunk that starts at `step`, and which exist: (int[...,C], bool[...,C]); the last one repeats."""
    rows = np.asarray(step)[..., None] + np.arange(chunk_length)
    last = np.asarray(length)[..., None] - 1
    return np.minimum(rows, last), rows <= last


def episode_statistics(
    dataset: RobotDataset,
    embodiment: str,
    form: EpisodeFormat,
    transform: Transform | None = None,
    episodes: Sequence[int] | None = None,
    ranges: FrameRanges | None = None,
) -> Statistics:
    """Statistics of `proprio` and of the actions of all chunks, as `transform` (such as `RelativeActions`) makes them.

    `episodes` and `ranges`: those that training sees, all by default.
    """
    return Statistics.from_values(embodiment, **episode_values(dataset, form, transform, episodes, ranges))


def episode_values(
    dataset: RobotDataset,
    form: EpisodeFormat,
    transform: Transform | None = None,
    episodes: Sequence[int] | None = None,
    ranges: FrameRanges | None = None,
    max_vectors: int = 2_000_000,
) -> dict[str, np.ndarray]:
    """`proprio` [N,a] of the frames that training sees and `actions` [M,a] of their chunks after `transform`.

    All of them while there are at most `max_vectors` actions; above that evenly spaced frames stand for the others.
    Those with NaN are left out, as they are in training.
    """
    episode_N, step_N = every_frame(dataset, 1, episodes, ranges)
    rows = dataset.starts[episode_N] + step_N
    proprio_NA = dataset.column(form.proprio).astype(np.float32)
    some = slice(None, None, max(1, -(-len(rows) * form.chunk_length // max_vectors)))
    lengths = dataset.episode_lengths[episode_N]
    ahead, valid = chunk_rows(step_N[some], lengths[some], form.chunk_length)
    actions = dataset.column(form.action).astype(np.float32)[ahead + dataset.starts[episode_N[some]][:, None]]
    sample = {"proprio": proprio_NA[rows[some]], "actions": actions}
    actions = (transform(sample) if transform else sample)["actions"][valid]
    return {"proprio": _finite(proprio_NA[rows]), "actions": _finite(actions)}


def refuse_other_widths(dataset: RobotDataset, embodiment: Embodiment, form: EpisodeFormat) -> None:
    """Raises ValueError where the dataset's proprioception or actions have another size than the embodiment's."""
    for name, width in ((form.proprio, embodiment.proprio_width), (form.action, embodiment.action_width)):
        found = dataset.column(name).shape[-1]
        if found != width:
            raise ValueError(
                f"{dataset.root}: {name!r} has {found} dims, embodiment {embodiment.name!r} has {width}; "
                "choose the embodiment this dataset was recorded with"
            )


def _finite(values_NA: np.ndarray) -> np.ndarray:
    return values_NA[np.isfinite(values_NA).all(axis=1)]


class EpisodeSource:
    """The documents of one dataset and one embodiment: one for every `stride`-th frame of every episode.

    `transform` maps a raw sample to what the model sees (see `data.transforms`). `ranges` leave frames out. Documents
    are pure functions of their index and, in what is drawn anew every epoch, of `seed` and epoch: see `visit`. Raises
    ValueError when dataset or transform belong to another embodiment, CorruptRecord for a frame that cannot be used.
    """

    def __init__(
        self,
        dataset: RobotDataset,
        embodiment: Embodiment,
        vocabulary: PromptVocabulary,
        transform: Transform,
        form: EpisodeFormat,
        episodes: Sequence[int] | None = None,
        ranges: FrameRanges | None = None,
        augment: AugmentConfig | None = None,
        seed: int = 0,
    ):
        self.augment, self.seed = augment, seed
        self.dataset, self.embodiment, self.vocabulary = dataset, embodiment, vocabulary
        self.transform, self.form = transform, form
        refuse_other_widths(dataset, embodiment, form)
        for part in transform.transforms if isinstance(transform, Compose) else (transform,):
            if isinstance(part, Normalise) and part.statistics.embodiment != embodiment.name:
                raise ValueError(
                    f"{dataset.root}: the statistics are those of {part.statistics.embodiment!r}, the embodiment is "
                    f"{embodiment.name!r}; compute them with `episode_statistics` from its own data"
                )
        if form.codes is not None:  # raises where the vocabulary has too few codes
            first = form.codes.first(vocabulary.num_codes)
            vocabulary.code_id(first)
            vocabulary.code_id(first + form.codes.num_codes - 1)
        self.episode_of, self.step_of = every_frame(dataset, form.stride, episodes, ranges)
        self._shown = form.goal.shown(dataset.starts[self.episode_of] + self.step_of, seed)

    def __len__(self) -> int:
        return len(self.episode_of)

    def costs(self) -> np.ndarray:
        """int32[N,3]: slots, images and vectors of every document."""
        tasks = self.dataset.column("task_index")[self._rows, 0]
        text = {task: len(words_of(self.dataset.tasks.get(task, ""), self.vocabulary)) for task in np.unique(tasks)}
        words_N, pictures_N = self._shown
        images_N = len(self.form.cameras) * (1 + pictures_N.astype(np.int32))
        plan = 1 + self.dataset.column(self.form.plan).shape[-1] if self.form.plan else 0
        codes = self.form.codes.counts(self.chunks(), self.embodiment.action_width) if self.form.codes else 0
        slots_N = 3 + plan + images_N * self.form.num_slots + pictures_N + codes
        slots_N += words_N * np.array([text[task] for task in tasks], np.int32).reshape(-1)
        return np.stack([slots_N, images_N, np.ones_like(images_N)], axis=1).astype(np.int32)

    @property
    def _rows(self) -> np.ndarray:
        """The dataset's row of each document's frame."""
        return self.dataset.starts[self.episode_of] + self.step_of

    def chunks(self, at_once: int = 4096) -> Iterator[np.ndarray]:
        """The transformed actions of all documents in order, a part float32[n,C,a] at a time."""
        proprio_NA, action_NA = (self.dataset.column(n).astype("f4") for n in (self.form.proprio, self.form.action))
        for start in range(0, len(self), at_once):
            episode_n, step_n = (of[start : start + at_once] for of in (self.episode_of, self.step_of))
            ahead_nC, _ = chunk_rows(step_n, self.dataset.episode_lengths[episode_n], self.form.chunk_length)
            first_n = self.dataset.starts[episode_n]
            actions = action_NA[first_n[:, None] + ahead_nC]
            yield self.transform({"proprio": proprio_NA[first_n + step_n], "actions": actions})["actions"]

    def __getitem__(self, index: int) -> Document:
        return self._document(index, None)

    def visit(self, index: int, epoch: int) -> Document:
        """The document as training sees it in an epoch: with a goal drawn anew and its images augmented, where the
        config says so."""
        return self._document(index, epoch)

    def _document(self, index: int, epoch: int | None) -> Document:
        episode, step = int(self.episode_of[index]), int(self.step_of[index])
        ahead, valid_C = chunk_rows(step, self.dataset.episode_lengths[episode], self.form.chunk_length)
        place = (self.seed, self.embodiment.name, episode, step, 0 if epoch is None else epoch)
        sample = self.transform(self._sample(episode, step, ahead) | self._told(index, episode, step, place))
        if self.augment is not None and epoch is not None:
            sample |= {"images": augmented(sample["images"], self.form.cameras, self.augment, place)}
            if "goal" in sample:
                place = (*place, "goal")
                sample |= {"goal": augmented(sample["goal"], self.form.cameras, self.augment, place)}
        document = observation_document(
            sample,
            vocabulary=self.vocabulary,
            embodiment=self.embodiment.index,
            num_slots=self.form.num_slots,
            plan_bins=self.form.plan_bins,
            plan_weight=self.form.token_weight,
        )
        actions_CA = sample["actions"]
        if self.form.continuous:
            mask_CA = np.repeat(valid_C[:, None], actions_CA.shape[1], axis=1)
            document += (Chunk(actions_CA, mask_CA, self.embodiment.index, self._ahead(document, episode, ahead)),)
        if self.form.codes is not None:
            weight = self.form.token_weight
            document += (action_tokens(actions_CA, valid_C, self.form.codes, weight, self.vocabulary),)
        return document

    def _told(self, index: int, episode: int, step: int, place: tuple[int | str, ...]) -> Sample:
        """What the robot is told to do, as far as this document shows it."""
        words, pictures = (bool(shown_N[index]) for shown_N in self._shown)
        told: Sample = {"instruction": self.dataset.frame_task(episode, step) if words else None}
        if pictures:
            later = later_step(step, int(self.dataset.episode_lengths[episode]), *place)
            told["goal"] = tuple(self.dataset.frame(episode, later, self.form.cameras).values())
        return told

    def _ahead(self, document: Document, episode: int, ahead_C: np.ndarray) -> np.ndarray:
        """What the robot feels at each step of the chunk, as the document's vector says it: float32[C,p]."""
        proprio_CA = self.dataset.column(self.form.proprio)[self.dataset.starts[episode] + ahead_C].astype(np.float32)
        return with_proprio(vector_of(document), self.transform({"proprio": proprio_CA})["proprio"])

    def _sample(self, episode: int, step: int, ahead_C: np.ndarray) -> Sample:
        dataset, start = self.dataset, self.dataset.starts[episode]
        proprio = dataset.column(self.form.proprio)[start + step].astype(np.float32)
        actions_CA = dataset.column(self.form.action)[start + ahead_C].astype(np.float32)
        if not (np.isfinite(proprio).all() and np.isfinite(actions_CA).all()):
            raise CorruptRecord(
                f"{dataset.describe(episode, step)}: NaN or infinity in {self.form.proprio!r} or in the next "
                f"{len(ahead_C)} frames of {self.form.action!r}; repair or drop the episode"
            )
        frame = dataset.frame(episode, step, self.form.cameras)
        sample = {"images": tuple(frame.values()), "proprio": proprio, "actions": actions_CA}
        if self.form.plan is not None:
            sample["plan"] = dataset.column(self.form.plan)[start + step]
        return sample


def every_frame(
    dataset: RobotDataset, stride: int, episodes: Sequence[int] | None, ranges: FrameRanges | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Episode and step of every stride-th frame, of those that `ranges` keep."""
    chosen = np.arange(dataset.num_episodes) if episodes is None else np.asarray(episodes, int)
    if len(chosen) and not (chosen.min() >= 0 and chosen.max() < dataset.num_episodes):
        raise ValueError(f"{dataset.root}: episodes must lie in 0..{dataset.num_episodes - 1}, got {chosen.tolist()}")
    if ranges is None:
        steps = [np.arange(0, dataset.episode_lengths[episode], stride) for episode in chosen]
    else:
        ranges.refuse_other(dataset.episode_lengths, str(dataset.root))
        steps = [ranges.frames(int(episode), stride) for episode in chosen]
    counts = [len(s) for s in steps]
    return np.repeat(chosen, counts), np.concatenate([*steps, np.zeros(0, int)])
