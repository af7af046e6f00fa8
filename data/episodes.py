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
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from data.elements import Chunk, CorruptRecord, Document, Image, Tokens, Vector
from data.lerobot import LeRobotDataset
from data.statistics import Statistics
from data.transforms import Bins, Compose, Normalise, Sample, Transform


class PromptVocabulary(Protocol):
    """The part of a vocabulary that documents need."""

    @property
    def bos_id(self) -> int: ...
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

    Raises ValueError when no action would be predicted, or when token steps lack bins or lie outside the chunk.
    """

    num_slots: int  # slots an image fills
    cameras: tuple[str, ...] = ("observation.images.front",)
    proprio: str = "observation.state"
    action: str = "action"
    chunk_length: int = 16
    continuous: bool = True  # predict the chunk as continuous values
    token_steps: tuple[int, ...] = ()  # chunk steps predicted as code tokens, one a dim
    bins: Bins | None = None  # for the tokens, over transformed actions
    token_weight: float = 1.0
    stride: int = 1  # every stride-th frame of an episode becomes a document
    plan: str | None = None  # feature with points y, x, ... in 0..1000 that the model names before it acts
    plan_bins: Bins | None = None

    def __post_init__(self):
        if (self.plan is None) != (self.plan_bins is None):
            raise ValueError("episode format: plan and plan_bins go together; give both or neither")
        if self.chunk_length < 1 or self.stride < 1 or self.num_slots < 1:
            raise ValueError(f"{self}: chunk_length, stride and num_slots must be at least 1")
        if not self.continuous and not self.token_steps:
            raise ValueError("episode format: no action is predicted; set continuous or give token_steps")
        if bool(self.token_steps) != (self.bins is not None):
            raise ValueError("episode format: token_steps and bins go together; give both or neither")
        if any(not 0 <= step < self.chunk_length for step in self.token_steps):
            raise ValueError(f"episode format: token_steps {self.token_steps} lie outside 0..{self.chunk_length - 1}")


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

    sample: `images` (tuple of uint8[H,W,3]), `instruction` and `proprio` (float32[a]), already transformed; with
    `plan_bins` also `plan`, the points y, x, ... named before acting: the only targets in it, and again, from -1 to 1,
    in front of the proprioception.
    """
    plan: Document = ()
    vector = sample["proprio"]
    if plan_bins is not None:
        codes = place_tokens(sample["plan"], plan_weight, plan_bins, vocabulary)
        plan = (_prompt([vocabulary.piece_id("<point>")]), codes)
        vector = np.concatenate([_as_numbers(sample["plan"], plan_bins), vector])
    return (
        _prompt([vocabulary.bos_id]),
        *(Image(pixels, num_slots) for pixels in sample["images"]),
        _prompt(words_of(sample["instruction"], vocabulary)),
        *plan,
        Vector(vector, embodiment),
        _prompt([vocabulary.piece_id("<action>")]),
    )


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
    actions_CA: np.ndarray, valid_C: np.ndarray, form: EpisodeFormat, vocabulary: PromptVocabulary
) -> Tokens:
    """Code tokens of the chunk steps `token_steps`, step by step and dim by dim; weight 0 past the episode's end."""
    assert form.bins is not None
    steps = list(form.token_steps)
    codes = form.bins.encode(actions_CA[steps]).reshape(-1)
    weights = np.repeat(valid_C[steps], actions_CA.shape[1]) * form.token_weight
    return Tokens(np.array([vocabulary.code_id(int(k)) for k in codes], np.int32), weights.astype(np.float32), "action")


def actions_of_tokens(ids: Sequence[int], width: int, bins: Bins, vocabulary: PromptVocabulary) -> np.ndarray:
    """float32[steps,width] that predicted tokens stand for, still transformed; the inverse of `action_tokens`.

    Raises ValueError when the ids are no codes or do not fill whole actions: there is no fallback action.
    """
    if not len(ids) or len(ids) % width:
        raise ValueError(f"{len(ids)} action tokens do not fill actions of {width} dims")
    return bins.decode(np.array([vocabulary.code_of(int(i)) for i in ids])).reshape(-1, width)


def chunk_rows(step: np.ndarray | int, length: np.ndarray | int, chunk_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of the chunk that starts at `step`, and which exist: (int[...,C], bool[...,C]); the last one repeats."""
    rows = np.asarray(step)[..., None] + np.arange(chunk_length)
    last = np.asarray(length)[..., None] - 1
    return np.minimum(rows, last), rows <= last


def episode_statistics(
    dataset: LeRobotDataset,
    embodiment: str,
    form: EpisodeFormat,
    transform: Transform | None = None,
    max_vectors: int = 2_000_000,
) -> Statistics:
    """Statistics of `proprio` and of the actions of all chunks after `transform` (such as `RelativeActions`).

    Exact while there are at most `max_vectors` actions; above that evenly spaced frames stand for all of them. Frames
    with NaN are left out, as they are in training.
    """
    stride = max(1, -(-dataset.num_frames * form.chunk_length // max_vectors))
    rows = np.arange(0, dataset.num_frames, stride)
    episode = np.searchsorted(dataset.starts, rows, side="right") - 1
    ahead, valid = chunk_rows(rows - dataset.starts[episode], dataset.episode_lengths[episode], form.chunk_length)
    proprio = dataset.column(form.proprio).astype(np.float32)
    actions = dataset.column(form.action).astype(np.float32)[ahead + dataset.starts[episode][:, None]]
    sample = {"proprio": proprio[rows], "actions": actions}
    actions = (transform(sample) if transform else sample)["actions"][valid]
    return Statistics.from_values(embodiment, proprio=_finite(proprio), actions=_finite(actions))


def refuse_other_widths(dataset: LeRobotDataset, embodiment: Embodiment, form: EpisodeFormat) -> None:
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

    `transform` maps a raw sample to what the model sees (see `data.transforms`). Documents are pure functions of their
    index. Raises ValueError when dataset or transform belong to another embodiment, CorruptRecord for a frame that
    cannot be used.
    """

    def __init__(
        self,
        dataset: LeRobotDataset,
        embodiment: Embodiment,
        vocabulary: PromptVocabulary,
        transform: Transform,
        form: EpisodeFormat,
        episodes: Sequence[int] | None = None,
    ):
        self.dataset, self.embodiment, self.vocabulary = dataset, embodiment, vocabulary
        self.transform, self.form = transform, form
        refuse_other_widths(dataset, embodiment, form)
        for part in transform.transforms if isinstance(transform, Compose) else (transform,):
            if isinstance(part, Normalise) and part.statistics.embodiment != embodiment.name:
                raise ValueError(
                    f"{dataset.root}: the statistics are those of {part.statistics.embodiment!r}, the embodiment is "
                    f"{embodiment.name!r}; compute them with `episode_statistics` from its own data"
                )
        if form.bins:
            vocabulary.code_id(form.bins.num_bins - 1)  # raises where the vocabulary has too few codes
        self.episode_of, self.step_of = every_frame(dataset, form.stride, episodes)

    def __len__(self) -> int:
        return len(self.episode_of)

    def costs(self) -> np.ndarray:
        """int32[N,3]: slots, images and vectors of every document."""
        tasks = self.dataset.column("task_index")[self.dataset.starts[self.episode_of] + self.step_of, 0]
        text = {task: len(words_of(self.dataset.tasks.get(task, ""), self.vocabulary)) for task in np.unique(tasks)}
        images = len(self.form.cameras)
        plan = 1 + self.dataset.column(self.form.plan).shape[-1] if self.form.plan else 0
        fixed = 3 + plan + images * self.form.num_slots + len(self.form.token_steps) * self.embodiment.action_width
        slots = fixed + np.array([text[task] for task in tasks], np.int32).reshape(-1)
        return np.stack([slots, np.full_like(slots, images), np.ones_like(slots)], axis=1)

    def __getitem__(self, index: int) -> Document:
        episode, step = int(self.episode_of[index]), int(self.step_of[index])
        ahead, valid_C = chunk_rows(step, self.dataset.episode_lengths[episode], self.form.chunk_length)
        sample = self.transform(self._sample(episode, step, ahead))
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
            document += (Chunk(actions_CA, mask_CA, self.embodiment.index),)
        if self.form.token_steps:
            document += (action_tokens(actions_CA, valid_C, self.form, self.vocabulary),)
        return document

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
        instruction = dataset.frame_task(episode, step)
        sample = {"images": tuple(frame.values()), "instruction": instruction, "proprio": proprio}
        sample["actions"] = actions_CA
        if self.form.plan is not None:
            sample["plan"] = dataset.column(self.form.plan)[start + step]
        return sample


def every_frame(dataset: LeRobotDataset, stride: int, episodes: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Episode and step of every stride-th frame."""
    chosen = np.arange(dataset.num_episodes) if episodes is None else np.asarray(episodes, int)
    if len(chosen) and not (chosen.min() >= 0 and chosen.max() < dataset.num_episodes):
        raise ValueError(f"{dataset.root}: episodes must lie in 0..{dataset.num_episodes - 1}, got {chosen.tolist()}")
    steps = [np.arange(0, dataset.episode_lengths[episode], stride) for episode in chosen]
    counts = [len(s) for s in steps]
    return np.repeat(chosen, counts), np.concatenate([*steps, np.zeros(0, int)])
