"""What every recorded dataset of a robot looks like to training, conversion and inspection, whatever its format."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

Report = Callable[[str], None]


def refuse(problem: str) -> None:
    """What to do about a problem of the files, unless it shall be reported and what it spoils left out."""
    raise ValueError(problem)


class RobotDataset(Protocol):
    """Random access to the frames of a dataset; episodes are counted from 0 in stored order.

    features: as in the info.json of LeRobot: {name: {"dtype": ..., "shape": [...], "names": ...}}, where dtype is
    "image", "video", "string" or that of numbers. fps is None where the format does not say.
    Raises ValueError for what spoils the dataset, CorruptRecord for what spoils a frame.
    """

    root: pathlib.Path
    fps: float | None
    robot_type: str
    features: dict[str, dict[str, Any]]
    tasks: dict[int, str]  # instructions by `task_index`
    episode_lengths: np.ndarray  # int64[num_episodes]
    starts: np.ndarray  # int64[num_episodes + 1]: first row of each episode
    num_episodes: int
    num_frames: int

    def column(self, name: str) -> np.ndarray:
        """All frames of a numeric feature as [num_frames, width], or of a string feature as object[num_frames]."""
        ...

    def frame(self, episode: int, step: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """The named features of one frame: arrays [width], uint8[H,W,3] images, strings."""
        ...

    def frame_task(self, episode: int, step: int) -> str:
        """The instruction of a frame."""
        ...

    def describe(self, episode: int, step: int) -> str:
        """File, episode and frame, for messages."""
        ...
