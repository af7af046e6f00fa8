"""Pointing at things in robot frames: an image, then names of things with their place as two code tokens each."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from data.elements import CorruptRecord, Document, Image, Tokens
from data.episodes import PromptVocabulary, every_frame, place_tokens, words_of
from data.robot_dataset import RobotDataset
from data.transforms import Bins

SCALE = 1000  # points are [y, x] in thousandths of the image's height and width
Place = tuple[float, ...]  # y, x of one point, or of each point of a trajectory
Point = tuple[str, Place]


def pointing_prompt(pixels: np.ndarray, *, vocabulary: PromptVocabulary, num_slots: int) -> Document:
    """The part of a document before the first name."""
    return Tokens(np.array([vocabulary.bos_id], np.int32), np.zeros(1, np.float32)), Image(pixels, num_slots)


def name_tokens(label: str, vocabulary: PromptVocabulary, weight: float = 0.0) -> Tokens:
    """A name, with its weight as a target, and `<point>`, the slot from which the first coordinate is predicted.

    Without a weight the first name of a picture binds to its thing only after a long plateau: later ones can be had by
    exclusion. Saying what is in the picture ties the words to what is seen.
    """
    ids = [*words_of(label, vocabulary), vocabulary.piece_id("<point>")]
    return Tokens(np.array(ids, np.int32), np.full(len(ids), weight, np.float32), "name")


def point_of_tokens(ids: Sequence[int], bins: Bins, vocabulary: PromptVocabulary) -> np.ndarray:
    """float32[2 n] of y, x, ... in 0..1000, the inverse of `point_tokens`. Raises ValueError for ids that are no
    codes."""
    return bins.decode(np.array([vocabulary.code_of(int(i)) for i in ids]))


class PointingSource:
    """One document for every `stride`-th frame that has annotated points, with at most `num_points` of them.

    `feature` is a string column: a JSON list of {"label": name, "point": [y, x]} or {"label": name, "trajectory":
    [[y, x], ...]} with y and x in 0..1000. Which points
    are asked for, and in which order, is a function of (seed, index). Raises CorruptRecord for an annotation or an
    image that cannot be read.
    """

    def __init__(
        self,
        dataset: RobotDataset,
        vocabulary: PromptVocabulary,
        *,
        camera: str,
        num_slots: int,
        num_points: int,
        num_bins: int,
        seed: int,
        weight: float = 1.0,
        name_weight: float = 0.0,
        stride: int = 1,
        feature: str = "annotation.points",
        episodes: Sequence[int] | None = None,
    ):
        if num_points < 1:
            raise ValueError(f"pointing: num_points is {num_points}; ask for at least 1")
        self.dataset, self.vocabulary = dataset, vocabulary
        self.camera, self.num_slots, self.num_points, self.seed, self.weight = (
            camera,
            num_slots,
            num_points,
            seed,
            weight,
        )
        self.name_weight = name_weight
        self.bins = Bins(num_bins, 0, SCALE)
        vocabulary.code_id(num_bins - 1)  # raises where the vocabulary has too few codes
        self.annotations = dataset.column(feature)
        episode_of, step_of = every_frame(dataset, stride, episodes)
        texts = self.annotations[dataset.starts[episode_of] + step_of]
        annotated = np.array([(text or "").strip() not in ("", "[]") for text in texts], bool)
        self.episode_of, self.step_of = episode_of[annotated], step_of[annotated]

    def __len__(self) -> int:
        return len(self.episode_of)

    def costs(self) -> np.ndarray:
        """int32[N,3]: slots, images and vectors of every document. An unreadable annotation counts as no points."""
        lengths: dict[str, int] = {}
        costs = np.zeros((len(self), 3), np.int32)
        for index in range(len(self)):
            try:
                points = self.points(index)
            except CorruptRecord:
                points = []
            for label, _ in points:
                if label not in lengths:
                    lengths[label] = len(words_of(label, self.vocabulary))
            named = sum(lengths[label] + 1 + len(place) for label, place in points)
            costs[index] = (1 + self.num_slots + named, 1, 0)
        return costs

    def points(self, index: int) -> list[Point]:
        """The points that document `index` asks for."""
        episode, step = int(self.episode_of[index]), int(self.step_of[index])
        text = self.annotations[self.dataset.starts[episode] + step]
        try:
            found = [(str(entry["label"]), _place(entry)) for entry in json.loads(str(text))]
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptRecord(
                f"{self.dataset.describe(episode, step)}: annotated points cannot be read ({error!r}); expected a JSON "
                'list of {"label": name, "point": [y, x]} or "trajectory": [[y, x], ...] with coordinates in 0..1000'
            ) from None
        order = np.random.default_rng((self.seed, index)).permutation(len(found))[: self.num_points]
        return [found[i] for i in order]

    def __getitem__(self, index: int) -> Document:
        episode, step = int(self.episode_of[index]), int(self.step_of[index])
        points = self.points(index)
        pixels = self.dataset.frame(episode, step, [self.camera])[self.camera]
        document = pointing_prompt(pixels, vocabulary=self.vocabulary, num_slots=self.num_slots)
        for label, point in points:
            document += (
                name_tokens(label, self.vocabulary, self.name_weight),
                place_tokens(point, self.weight, self.bins, self.vocabulary),
            )
        return document


def _place(entry: dict) -> Place:
    """The point or trajectory of one entry."""
    pairs = entry["trajectory"] if "trajectory" in entry else [entry["point"]]
    place = tuple(coordinate for y, x in pairs for coordinate in (y, x))
    if not place or not all(0 <= coordinate <= SCALE for coordinate in place):
        raise ValueError(f"point {place} lies outside 0..{SCALE}")
    return place
