"""The `embodiments` section of a config, the robot kinds of `sources`, and what they build."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from data.action_codes import MU_LAW, ActionCodes, StepCodes
from data.augment import AugmentConfig
from data.datasets import open_dataset
from data.episodes import (
    Embodiment,
    EpisodeFormat,
    EpisodeSource,
    PromptVocabulary,
    episode_values,
    refuse_other_widths,
)
from data.fast import Fast
from data.goals import Goal
from data.pointing import SCALE, PointingSource
from data.ranges import FrameRanges
from data.robot_dataset import RobotDataset
from data.statistics import Statistics
from data.transforms import ABSOLUTE, Bins, Compose, Normalise, RelativeActions, ResizeImage, Transform

Split = Literal["train", "validation"]


@dataclasses.dataclass(frozen=True)
class EmbodimentConfig:
    """One robot.

    relative: for each action dim the dim of proprioception that it becomes an offset from, or -1 where it stays
        absolute. A number n stands for 0, 1, .. n - 1 and -1 for all after it.
    statistics: `files/statistics.json` of a checkpoint, to normalise as the weights that a run starts from were
        trained to expect; None: statistics of the data.
    """

    index: int  # counted from 0; each robot has its own
    proprio_width: int
    action_width: int
    relative: int | tuple[int, ...] = 0
    normalise: Literal["mean_std", "quantile"] = "mean_std"
    statistics: str | None = None

    def __post_init__(self):
        _at_least(self, index=0, proprio_width=1, action_width=1)
        most = min(self.action_width, self.proprio_width)
        if isinstance(self.relative, int):
            if not 0 <= self.relative <= most:
                raise ValueError(
                    f"relative is {self.relative}; it must be 0 .. {most}, as there are {self.action_width} actions "
                    f"and {self.proprio_width} dims of proprioception, or name a dim for each action"
                )
        elif len(self.relative) != self.action_width or not all(
            ABSOLUTE <= dim < self.proprio_width for dim in self.relative
        ):
            raise ValueError(
                f"relative is {self.relative}; it must name for each of {self.action_width} actions one of "
                f"{self.proprio_width} dims of proprioception, counted from 0, or {ABSOLUTE} where it stays absolute"
            )

    def embodiment(self, name: str) -> Embodiment:
        return Embodiment(name, self.index, self.proprio_width, self.action_width)

    def offsets(self) -> tuple[Transform, ...]:
        """The part of the transform that comes before normalisation."""
        dims = self.relative
        if isinstance(dims, int):
            dims = (*range(dims), *(ABSOLUTE,) * (self.action_width - dims))
        return (RelativeActions(dims),) if max(dims) > ABSOLUTE else ()

    def given_statistics(self, name: str) -> Statistics | None:
        """Those of the file `statistics`, if one is named. Raises ValueError where it has none that fit."""
        if self.statistics is None:
            return None
        where = f"embodiments.{name}.statistics is {self.statistics!r}"
        try:
            record = json.loads(pathlib.Path(self.statistics).read_text())
            statistics = Statistics.from_dict(record[name])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{where}; it must be a checkpoint's statistics.json that has {name!r}: {error}") from None
        widths = {"proprio": self.proprio_width, "actions": self.action_width}
        found = {feature: statistics.features[feature].width for feature in widths if feature in statistics.features}
        if found != widths:
            raise ValueError(f"{where}, which has widths {found}; this robot has {widths}: name another file, or None")
        return statistics


@dataclasses.dataclass(frozen=True)
class EpisodesConfig:
    """Behaviour cloning documents from one dataset (LeRobot, RLDS or NumPy) of one embodiment; see `EpisodeFormat`.

    cameras, proprio, action: features of the dataset, as `python -m data.inspect` names them. holdout: share of the
    episodes, evenly spaced, that training does not see.
    """

    root: str  # the dataset: a folder, or a file of episodes
    embodiment: str  # a name in `embodiments`
    num_slots: int  # of an image: the patches that the model makes of it
    chunk: int  # action steps predicted at once
    kind: Literal["episodes"] = "episodes"
    cameras: tuple[str, ...] = ("observation.images.front",)
    proprio: str = "observation.state"
    action: str = "action"
    resize: tuple[int, int] | None = None  # height and width images are brought to; None = they have the model's size
    continuous: bool = True  # predict the chunk as numbers
    token_steps: tuple[int, ...] = ()  # steps of the chunk predicted as code tokens, one for each dim
    num_bins: int = 256  # that each dim is one of, over normalised actions in [-3, 3]
    mu_law: bool = False  # bins over companded actions, as Gato's 1,024: fine near 0, coarse far from it
    fast: str | None = None  # file of `python -m data.fast`: the whole chunk in compressed code tokens
    token_weight: float = 1.0  # of an action token in the loss
    stride: int = 1  # every so many frames make a document
    plan: str | None = None  # feature of points y, x, ... in 0..1000 that the model names before it acts
    plan_length: int = 0  # numbers in a plan
    plan_bins: int = 0  # codes that each of them is one of
    goal: Literal["language", "image", "both"] = "language"  # image: pictures of a later step of the episode
    goal_dropout: float = 0.0  # share of documents that lack words or pictures; goal "both" only
    ranges: str | None = None  # file of `python -m data.idle`: only the frames it keeps start a document
    augment: AugmentConfig | None = None  # of training images; None = as they are
    holdout: float = 0.0

    def __post_init__(self):
        _at_least(self, num_slots=1, chunk=1, stride=1)
        if (self.plan is None) != (self.plan_length == 0) or (self.plan is None) != (self.plan_bins == 0):
            raise ValueError(f"plan is {self.plan!r}; plan_length and plan_bins go with it: set all three or none")
        _share(self, "holdout")
        if self.resize is not None and min(self.resize) < 1:
            raise ValueError(f"resize is {self.resize}; it must be a height and a width in pixels, or None")
        if self.augment is not None:
            unknown = sorted(set(self.augment.wrist) - set(self.cameras))
            if unknown:
                raise ValueError(f"augment.wrist names {unknown}; cameras are {list(self.cameras)}")
            if self.plan is not None and self.augment.moves:
                raise ValueError(
                    "augment moves things in the image, and plan says where they are; set augment.crop to 1 and "
                    "augment.rotation to 0"
                )
        self._check_codes()
        self.form()

    def _check_codes(self) -> None:
        if not self.continuous and not self.token_steps and self.fast is None:
            raise ValueError("no action is predicted; set continuous or give token_steps or fast")
        if self.token_steps and self.fast is not None:
            raise ValueError(f"token_steps is {self.token_steps}, but fast codes whole chunks; remove one of them")
        if self.mu_law and not self.token_steps:
            raise ValueError("mu_law has no effect without token_steps; set token_steps, or remove mu_law")

    def action_codes(self) -> ActionCodes | None:
        """How chunks are told in tokens. Raises ValueError where the file `fast` cannot be read."""
        if self.fast is not None:
            return Fast.load(self.fast)
        if not self.token_steps:
            return None
        bins = Bins(self.num_bins, -1.0, 1.0, MU_LAW) if self.mu_law else Bins(self.num_bins, -3.0, 3.0)
        return StepCodes(self.token_steps, bins)

    def form(self, codes: ActionCodes | None = None) -> EpisodeFormat:
        """`codes`: of the file `fast`, which is not read here."""
        return EpisodeFormat(
            num_slots=self.num_slots,
            cameras=self.cameras,
            proprio=self.proprio,
            action=self.action,
            chunk_length=self.chunk,
            continuous=self.continuous,
            codes=codes or (None if self.fast else self.action_codes()),
            token_weight=self.token_weight,
            stride=self.stride,
            plan=self.plan,
            plan_bins=Bins(self.plan_bins, 0, SCALE) if self.plan else None,
            goal=Goal(self.goal, self.goal_dropout),
        )

    def build(
        self,
        embodiment: Embodiment,
        transform: Transform,
        vocabulary: PromptVocabulary,
        split: Split = "train",
        seed: int = 0,
    ) -> EpisodeSource:
        """`seed`: of what is drawn anew every epoch."""
        dataset = open_dataset(self.root)
        if self.plan is not None and dataset.column(self.plan).shape[-1] != self.plan_length:
            found = dataset.column(self.plan).shape[-1]
            raise ValueError(f"plan_length is {self.plan_length}, {self.plan!r} of {self.root} has {found}; correct it")
        episodes, ranges = _episodes(dataset, self.holdout, split), self._ranges()
        return EpisodeSource(
            dataset,
            embodiment,
            vocabulary,
            transform,
            self.form(self.action_codes()),
            episodes,
            ranges,
            self.augment,
            seed,
        )

    def values(self, embodiment: Embodiment, transform: Transform) -> dict[str, np.ndarray]:
        """What statistics are made of: `proprio` and transformed `actions` of the frames that training sees."""
        dataset, form = open_dataset(self.root), self.form()
        refuse_other_widths(dataset, embodiment, form)
        return episode_values(dataset, form, transform, _episodes(dataset, self.holdout, "train"), self._ranges())

    def _ranges(self) -> FrameRanges | None:
        return FrameRanges.load(self.ranges) if self.ranges is not None else None


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
        dataset = open_dataset(self.root)
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


def transform_of(
    config: EmbodimentConfig, name: str, sources: Sequence[EpisodesConfig]
) -> tuple[Transform, Statistics]:
    """What this embodiment's samples go through, with statistics of all its sources after the relative actions.

    Statistics are of the episodes and frames that training sees, unless the robot has some given. Raises ValueError
    where the sources bring their images to different sizes.
    """
    resize = {source.resize for source in sources}
    if len(resize) > 1:
        raise ValueError(f"resize differs among the sources of embodiment {name!r}: {resize}; make them equal")
    statistics = config.given_statistics(name)
    if statistics is None:
        seen = {(s.root, s.proprio, s.action, s.chunk, s.ranges, s.holdout): s for s in sources}
        parts = [source.values(config.embodiment(name), Compose(config.offsets())) for source in seen.values()]
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        statistics = Statistics.from_values(name, **joined)
    (size,) = resize
    resized = (ResizeImage(*size),) if size else ()
    return Compose((*resized, *config.offsets(), Normalise(statistics, config.normalise))), statistics


def _episodes(dataset: RobotDataset, holdout: float, split: Split) -> list[int] | None:
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
