"""The `embodiments` section of a config, the robot kinds of `sources`, and what they build."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Literal

import numpy as np

from data.episodes import Embodiment, EpisodeFormat, EpisodeSource, PromptVocabulary, episode_statistics
from data.lerobot import LeRobotDataset
from data.pointing import PointingSource
from data.statistics import Statistics
from data.transforms import Bins, Compose, Normalise, RelativeActions, Transform

Split = Literal["train", "validation"]


@dataclasses.dataclass(frozen=True)
class EmbodimentConfig:
    """One robot. `relative`: its first so many actions become offsets from the same dims of proprioception."""

    index: int
    proprio_width: int
    action_width: int
    relative: int = 0
    normalise: Literal["mean_std", "quantile"] = "mean_std"

    def __post_init__(self):
        if self.index < 0 or self.proprio_width < 1 or self.action_width < 1:
            raise ValueError(f"index is {self.index}; it must be 0 or more, and both widths at least 1")
        if not 0 <= self.relative <= min(self.action_width, self.proprio_width):
            raise ValueError(
                f"relative is {self.relative}; it must be 0 .. {min(self.action_width, self.proprio_width)}, as each "
                "relative action needs its dim of proprioception"
            )

    def embodiment(self, name: str) -> Embodiment:
        return Embodiment(name, self.index, self.proprio_width, self.action_width)

    def offsets(self) -> tuple[Transform, ...]:
        """The part of the transform that comes before normalisation."""
        if not self.relative:
            return ()
        mask = tuple(dim < self.relative for dim in range(self.action_width))
        return (RelativeActions(mask, (0, self.action_width)),)


@dataclasses.dataclass(frozen=True)
class EpisodesConfig:
    """Behaviour cloning documents from one LeRobot dataset of one embodiment; see `EpisodeFormat`.

    holdout: share of the episodes, the last ones, that training does not see.
    """

    root: str
    embodiment: str  # a name in `embodiments`
    num_slots: int  # of an image
    chunk: int
    kind: Literal["episodes"] = "episodes"
    continuous: bool = True
    token_steps: tuple[int, ...] = ()
    num_bins: int = 256  # of token actions, over normalised actions in [-3, 3]
    token_weight: float = 1.0
    stride: int = 1
    holdout: float = 0.0

    def __post_init__(self):
        self.form()
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout is {self.holdout}; it must be a share in [0, 1)")

    def form(self) -> EpisodeFormat:
        return EpisodeFormat(
            num_slots=self.num_slots,
            chunk_length=self.chunk,
            continuous=self.continuous,
            token_steps=self.token_steps,
            bins=Bins(self.num_bins, -3.0, 3.0) if self.token_steps else None,
            token_weight=self.token_weight,
            stride=self.stride,
        )

    def build(
        self, embodiment: Embodiment, transform: Transform, vocabulary: PromptVocabulary, split: Split = "train"
    ) -> EpisodeSource:
        dataset = _open(self.root)
        episodes = _episodes(dataset, self.holdout, split)
        return EpisodeSource(dataset, embodiment, vocabulary, transform, self.form(), episodes)


@dataclasses.dataclass(frozen=True)
class PointingConfig:
    """Pointing documents from the annotated frames of one LeRobot dataset; see `PointingSource`."""

    root: str
    num_slots: int
    num_points: int
    kind: Literal["pointing"] = "pointing"
    camera: str = "observation.images.front"
    num_bins: int = 256
    weight: float = 1.0
    stride: int = 1
    holdout: float = 0.0

    def __post_init__(self):
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout is {self.holdout}; it must be a share in [0, 1)")

    def build(self, vocabulary: PromptVocabulary, seed: int, split: Split = "train") -> PointingSource:
        dataset = _open(self.root)
        return PointingSource(
            dataset,
            vocabulary,
            camera=self.camera,
            num_slots=self.num_slots,
            num_points=self.num_points,
            num_bins=self.num_bins,
            seed=seed,
            weight=self.weight,
            stride=self.stride,
            episodes=_episodes(dataset, self.holdout, split),
        )


def transform_of(config: EmbodimentConfig, name: str, source: EpisodesConfig) -> tuple[Transform, Statistics]:
    """What this embodiment's samples go through, with statistics of its own data after the relative actions."""
    offsets = Compose(config.offsets())
    statistics = episode_statistics(_open(source.root), name, source.form(), offsets)
    return Compose((*config.offsets(), Normalise(statistics, config.normalise))), statistics


def _open(root: str) -> LeRobotDataset:
    if not pathlib.Path(root).exists():
        raise ValueError(f"root {root!r} does not exist; record the dataset first or correct the path")
    return LeRobotDataset(root)


def _episodes(dataset: LeRobotDataset, holdout: float, split: Split) -> list[int] | None:
    """The first episodes for training, the last share `holdout` for validation."""
    if holdout == 0:
        return None
    cut = dataset.num_episodes - max(1, round(holdout * dataset.num_episodes))
    return list(range(cut) if split == "train" else np.arange(cut, dataset.num_episodes))
