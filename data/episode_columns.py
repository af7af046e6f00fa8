"""Episodes whose numbers are held in memory: what datasets in other formats than LeRobot's are read as."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.elements import CorruptRecord
from data.lerobot import layout


class EpisodeColumns:
    """A `data.robot_dataset.RobotDataset` made of columns; a subclass adds the pictures.

    features: as in `RobotDataset`; columns: [num_frames, width] or object[num_frames] of those that are no pictures;
    instructions: one for each frame. left_out: why a feature of the files is not among `features`, by name.
    """

    fps: float | None = None

    def __init__(
        self,
        root: str | pathlib.Path,
        features: Mapping[str, Mapping[str, Any]],
        columns: Mapping[str, np.ndarray],
        lengths: Sequence[int],
        instructions: Sequence[str],
        robot_type: str,
        left_out: Mapping[str, str],
    ):
        self.root, self.robot_type = pathlib.Path(root), robot_type
        self.features: dict[str, dict[str, Any]] = {name: dict(feature) for name, feature in features.items()}
        self.left_out = dict(left_out)
        self.episode_lengths = np.array(lengths, int)
        self.starts = np.concatenate([[0], np.cumsum(self.episode_lengths)])
        self.num_episodes, self.num_frames = len(self.episode_lengths), int(self.starts[-1])
        index = {task: number for number, task in enumerate(dict.fromkeys(instructions))}
        self.tasks = {number: task for task, number in index.items()}
        self._columns = dict(columns)
        self._columns["task_index"] = np.array([index[task] for task in instructions], np.int64)[:, None]

    def column(self, name: str) -> np.ndarray:
        """All frames of a feature. Raises ValueError for one that is not there, or is pictures."""
        if name in self._columns:
            return self._columns[name]
        if name not in self.features:
            why = f" ({self.left_out[name]})" if name in self.left_out else ""
            raise ValueError(f"{self.root}: no feature {name!r}{why}; it has {sorted(self.features)}")
        raise ValueError(f"feature {name!r} is {self.features[name]['dtype']}: read it a frame at a time with `frame`")

    def frame(self, episode: int, step: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """The named features (all by default) of one frame: arrays [width], uint8[H,W,3] images, strings."""
        row = self._row(episode, step)
        values = {}
        for name in self.features if columns is None else columns:
            if name in self.features and layout.is_visual(self.features[name]):
                values[name] = self._picture(name, episode, step)
            else:
                values[name] = self.column(name)[row]
        return values

    def _picture(self, name: str, episode: int, step: int) -> np.ndarray:
        try:
            pixels = self.pixels(name, episode, step)
        except ValueError as error:
            raise CorruptRecord(f"{self.describe(episode, step)}, feature {name!r}: {error}") from None
        if list(pixels.shape) != list(self.features[name]["shape"]):
            raise CorruptRecord(
                f"{self.describe(episode, step)}, feature {name!r}: the picture has shape {list(pixels.shape)}, the "
                f"first one {self.features[name]['shape']}; leave the episode out"
            )
        return pixels

    def pixels(self, name: str, episode: int, step: int) -> np.ndarray:
        """uint8[H,W,3]. Raises ValueError where it cannot be decoded."""
        raise NotImplementedError

    def frame_task(self, episode: int, step: int) -> str:
        """The instruction of a frame, "" where there is none."""
        return self.tasks[int(self._columns["task_index"][self._row(episode, step), 0])]

    def describe(self, episode: int, step: int) -> str:
        """File, episode and frame, for messages."""
        return f"{self.root}: episode {episode} frame {step}"

    def _row(self, episode: int, step: int) -> int:
        if not (0 <= episode < self.num_episodes and 0 <= step < self.episode_lengths[episode]):
            raise IndexError(f"{self.root}: no frame {step} in episode {episode} of {self.num_episodes}")
        return int(self.starts[episode]) + step


def number_feature(values_NA: np.ndarray) -> dict[str, Any]:
    """The description of a numeric column."""
    return {"dtype": str(values_NA.dtype), "shape": [values_NA.shape[1]], "names": None}


def picture_feature(pixels: np.ndarray) -> dict[str, Any]:
    """The description of a camera, from one picture."""
    return {"dtype": "image", "shape": list(pixels.shape), "names": ["height", "width", "channels"]}
