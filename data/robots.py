"""The `embodiments` section of a config, the robot kinds of `sources`, and what they build."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Literal

import numpy as np

from data.episodes import (
    Embodiment,
    EpisodeFormat,
    EpisodeSource,
    PromptVocabulary,
    episode_statistics,
    refuse_other_widths,
)
from data.lerobot import LeRobotDataset
from data.pointing import SCALE, PointingSource
from data.statistics import Statistics
from data.transforms import Bins, Compose, Normalise, RelativeActions, ResizeImage, Transform

Split = Literal["train", "validation"]


@dataclasses.dataclass(frozen=True)
class EmbodimentConfig:
    """One robot. `relative`: its first so many actions become offsets from the same dims of proprioception."""

    index: int  # counted from 0; each robot has its own
    proprio_width: int
    action_width: int
    relative: int = 0
    normalise: Literal["mean_std", "quantile"] = "mean_std"

    def __post_init__(self):
        _at_least(self, index=0, proprio_width=1, action_width=1)
        # The offset covers all dims of an action, those that stay absolute too.
        most = self.action_width if self.action_width <= self.proprio_width else 0
        if not 0 <= self.relative <= most:
            raise ValueError(
                f"relative is {self.relative}; it must be 0 .. {most}, as the first action_width ({self.action_width}) "
                f"of {self.proprio_width} dims of proprioception are what actions are offsets from"
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

    cameras, proprio, action: features of the dataset. holdout: share of the episodes, evenly spaced, that training
    does not see.
    """

    root: str  # folder of the dataset
    embodiment: str  # a name in `embodiments`
    num_slots: int  # of an image: the patches that the model makes of it
    chunk: int  # action steps predicted at once
    kind: Literal["episodes"] = "episodes"
    cameras: tuple[str, ...] = ("observation.images.front",)
    proprio: str = "observation.state"
    action: str = "action"
    resize: tuple[int, int] | None = None  # height and width images are brought to; None = they have the model's size
    continuous: bool = True  # predict the chunk as numbers
    token_steps: tuple[int, ...] = ()  # steps of the chunk predicted as code tokens
    num_bins: int = 256  # of token actions, over normalised actions in [-3, 3]
    token_weight: float = 1.0  # of an action token in the loss
    stride: int = 1  # every so many frames make a document
    plan: str | None = None  # feature of points y, x, ... in 0..1000 that the model names before it acts
    plan_length: int = 0  # numbers in a plan
    plan_bins: int = 0  # codes that each of them is one of
    holdout: float = 0.0

    def __post_init__(self):
        _at_least(self, num_slots=1, chunk=1, stride=1)
        if (self.plan is None) != (self.plan_length == 0) or (self.plan is None) != (self.plan_bins == 0):
            raise ValueError(f"plan is {self.plan!r}; plan_length and plan_bins go with it: set all three or none")
        _share(self, "holdout")
        if self.resize is not None and min(self.resize) < 1:
            raise ValueError(f"resize is {self.resize}; it must be a height and a width in pixels, or None")
        self.form()

    def form(self) -> EpisodeFormat:
        return EpisodeFormat(
            num_slots=self.num_slots,
            cameras=self.cameras,
            proprio=self.proprio,
            action=self.action,
            chunk_length=self.chunk,
            continuous=self.continuous,
            token_steps=self.token_steps,
            bins=Bins(self.num_bins, -3.0, 3.0) if self.token_steps else None,
            token_weight=self.token_weight,
            stride=self.stride,
            plan=self.plan,
            plan_bins=Bins(self.plan_bins, 0, SCALE) if self.plan else None,
        )

    def build(
        self, embodiment: Embodiment, transform: Transform, vocabulary: PromptVocabulary, split: Split = "train"
    ) -> EpisodeSource:
        dataset = _open(self.root)
        if self.plan is not None and dataset.column(self.plan).shape[-1] != self.plan_length:
            found = dataset.column(self.plan).shape[-1]
            raise ValueError(f"plan_length is {self.plan_length}, {self.plan!r} of {self.root} has {found}; correct it")
        episodes = _episodes(dataset, self.holdout, split)
        return EpisodeSource(dataset, embodiment, vocabulary, transform, self.form(), episodes)


@dataclasses.dataclass(frozen=True)
class PointingConfig:
    """Pointing documents from the annotated frames of one LeRobot dataset; see `PointingSource`."""

    root: str
    num_slots: int
    num_points: int  # of a frame, at most
    kind: Literal["pointing"] = "pointing"
    camera: str = "observation.images.front"
    num_bins: int = 256
    name_weight: float = 0.0  # of the names as targets: saying what is in the picture
    weight: float = 1.0
    stride: int = 1
    holdout: float = 0.0

    def __post_init__(self):
        _at_least(self, num_slots=1, num_points=1, num_bins=2, stride=1)
        _share(self, "holdout")

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
            name_weight=self.name_weight,
            stride=self.stride,
            episodes=_episodes(dataset, self.holdout, split),
        )


def transform_of(config: EmbodimentConfig, name: str, source: EpisodesConfig) -> tuple[Transform, Statistics]:
    """What this embodiment's samples go through, with statistics of its own data after the relative actions.

    Image sizes come from `source`, so all sources of one embodiment share them.
    """
    offsets = Compose(config.offsets())
    dataset, form = _open(source.root), source.form()
    refuse_other_widths(dataset, config.embodiment(name), form)
    statistics = episode_statistics(dataset, name, form, offsets)
    resized = (ResizeImage(*source.resize),) if source.resize else ()
    return Compose((*resized, *config.offsets(), Normalise(statistics, config.normalise))), statistics


def _open(root: str) -> LeRobotDataset:
    if not pathlib.Path(root).exists():
        raise ValueError(f"root {root!r} does not exist; record the dataset first or correct the path")
    return LeRobotDataset(root)


def _episodes(dataset: LeRobotDataset, holdout: float, split: Split) -> list[int] | None:
    """A share `holdout` of the episodes, evenly spaced, for validation; the others for training."""
    if holdout == 0:
        return None
    num = dataset.num_episodes
    held_out = np.linspace(0, num - 1, max(1, round(holdout * num))).round().astype(int)
    return np.setdiff1d(np.arange(num), held_out).tolist() if split == "train" else held_out.tolist()


def _at_least(section: object, **bounds: int) -> None:
    for name, bound in bounds.items():
        if getattr(section, name) < bound:
            raise ValueError(f"{name} is {getattr(section, name)}; it must be at least {bound}")


def _share(section: object, name: str) -> None:
    if not 0 <= getattr(section, name) < 1:
        raise ValueError(f"{name} is {getattr(section, name)}; it must be a share in [0, 1)")
