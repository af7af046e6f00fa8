"""Reads LeRobotDataset v3.0 and v2: numbers from memory, images and video frames decoded when asked for."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.elements import CorruptRecord
from data.lerobot import layout
from data.lerobot.images import ParquetImages
from data.lerobot.index import Episode, read_episodes, read_info, read_table, read_tasks
from data.lerobot.png import decode_png
from data.lerobot.video import VideoFrames
from data.robot_dataset import Report, refuse


class LeRobotDataset:
    """Random access to the frames of a dataset on disk.

    Episodes are counted 0..num_episodes-1 in stored order, whatever numbers they carry. Numeric and string columns are
    read whole on first use and kept; images are read a parquet row group at a time, of which `cache_mb` are kept, and
    decoded on every access. Safe to use from threads; a pickled copy opens the files anew.
    report: told of each problem of the files, which are then left out with their episodes; without it they are refused.
    Raises ValueError for a dataset that cannot be read (missing or truncated files, another version, metadata that
    does not match the files) and CorruptRecord for a single frame, naming file, record and remedy.
    """

    def __init__(self, root: str | pathlib.Path, cache_mb: float = 512, report: Report | None = None):
        self.root, self.cache_mb = pathlib.Path(root), cache_mb
        self.info = read_info(self.root)
        self.fps: float | None = self.info["fps"]
        self.robot_type = str(self.info.get("robot_type"))
        self.features = layout.normalised_features(self.info["features"])
        self._images = ParquetImages(cache_mb)
        self.episodes: list[Episode] = read_episodes(self.root, self.info, report or refuse)
        if report is not None:
            self.episodes = self._with_videos(self.episodes, report)
        self.episodes = self._whole(self.episodes, report or refuse)
        if not self.episodes:
            raise ValueError(f"{self.root}: no episode can be read; copy the dataset again")
        self.tasks = read_tasks(self.root, self.info)
        self.episode_lengths = np.array([episode.length for episode in self.episodes])
        self.num_episodes = len(self.episodes)
        self.num_frames = int(self.episode_lengths.sum())
        self.starts = np.concatenate([[0], np.cumsum(self.episode_lengths)])  # first row of each episode
        self._columns: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()
        self._videos = VideoFrames(self.info["fps"])
        self._first_row: dict[pathlib.Path, int] = {}  # of every data file
        for episode, start in zip(self.episodes, self.starts, strict=False):
            self._first_row.setdefault(episode.path, int(start))
        if report is None:
            self._refuse_disorder()

    def __reduce__(self):
        return LeRobotDataset, (self.root, self.cache_mb)

    def _whole(self, episodes: list[Episode], report: Report) -> list[Episode]:
        """The episodes of files that hold the columns, and the frames, that the metadata promise."""
        declared = {name for name, feature in self.features.items() if feature["dtype"] != "video"}
        promised: dict[pathlib.Path, int] = {}
        for episode in episodes:
            promised[episode.path] = promised.get(episode.path, 0) + episode.length
        broken = set()
        for path, rows in promised.items():
            problem = self._problem(path, rows, declared)
            if problem:
                broken.add(path)
                report(problem)
        return [episode for episode in episodes if episode.path not in broken]

    def _problem(self, path: pathlib.Path, rows: int, declared: set[str]) -> str | None:
        try:
            found, names = self._images.describe(path)
        except ValueError as error:
            return str(error)
        if declared - set(names):
            return f"{path}: columns {sorted(declared - set(names))} of info.json are missing, it has {names}"
        if found != rows:
            return f"{path} holds {found} frames, the metadata promises {rows}; copy the file again"
        return None

    def _with_videos(self, episodes: list[Episode], report: Report) -> list[Episode]:
        """Without the cameras that have no file at all, and the data files whose episodes lack one of a camera."""
        there = {video.path for episode in episodes for video in episode.videos.values() if video.path.is_file()}
        for camera in [name for name, feature in self.features.items() if feature["dtype"] == "video"]:
            lacking = [episode for episode in episodes if episode.videos[camera].path not in there]
            if episodes and len(lacking) == len(episodes):
                report(f"{self.root}: no video of {camera!r} is there; copy them, or remove it from info.json")
                self.features = {name: feature for name, feature in self.features.items() if name != camera}
                continue
            for path in dict.fromkeys(episode.videos[camera].path for episode in lacking):
                report(f"{path}: the video file is missing; copy it again")
            spoiled = {episode.path for episode in lacking}
            episodes = [episode for episode in episodes if episode.path not in spoiled]
        return episodes

    def _refuse_disorder(self) -> None:
        numbers = np.repeat([episode.number for episode in self.episodes], self.episode_lengths)
        wrong = np.flatnonzero(self.column("episode_index")[:, 0] != numbers)
        if len(wrong):
            path = self._locate(int(wrong[0]))[0]
            raise ValueError(f"{path}: frames are not in the order of the metadata; write the dataset again")

    def column(self, name: str) -> np.ndarray:
        """All frames of a numeric feature as [num_frames, width], of higher ranks flat, or of a string feature as
        object[num_frames]."""
        if name in self._columns:
            return self._columns[name]
        feature = self._feature(name)
        if layout.is_visual(feature):
            raise ValueError(f"feature {name!r} is {feature['dtype']}: read it a frame at a time with `frame`")
        with self._lock:
            if name not in self._columns:
                parts = [self._read(path, name, feature) for path in self._first_row]
                self._columns[name] = np.concatenate(parts)
        return self._columns[name]

    def _read(self, path: pathlib.Path, name: str, feature: dict[str, Any]) -> np.ndarray:
        column = read_table(path, [name])[name]
        if not layout.is_number(feature):
            return np.array(column.to_pylist(), dtype=object)
        try:
            return layout.arrow_to_numbers(column, feature["shape"][0])
        except ValueError as error:
            raise ValueError(f"{path}: column {name!r}: {error}; write the file again") from None

    def _feature(self, name: str) -> dict[str, Any]:
        if name not in self.features:
            raise ValueError(f"{self.root}: no feature {name!r}; it has {sorted(self.features)}")
        return self.features[name]

    def episode_task(self, episode: int) -> str:
        """The instruction of an episode (the first, where frames carry several; see `frame_task`)."""
        return self.frame_task(episode, 0)

    def frame_task(self, episode: int, step: int) -> str:
        """The instruction of a frame. Raises CorruptRecord when its task_index is not in the task list."""
        task = int(self.column("task_index")[self._row(episode, step), 0])
        if task not in self.tasks:
            raise CorruptRecord(f"{self.describe(episode, step)}: task_index {task} is not in the task list")
        return self.tasks[task]

    def frame(self, episode: int, step: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """The named features (all by default) of one frame: arrays [width], uint8[H,W,3] images, strings."""
        row = self._row(episode, step)
        return {name: self._value(name, episode, step, row) for name in (self.features if columns is None else columns)}

    def _value(self, name: str, episode: int, step: int, row: int) -> Any:
        feature = self._feature(name)
        if not layout.is_visual(feature):
            return self.column(name)[row]
        try:
            if feature["dtype"] == "video":
                video = self.episodes[episode].videos[name]
                seconds = self.column("timestamp")[row, 0] - self.column("timestamp")[self.starts[episode], 0]
                pixels = self._videos.read(video.path, video.start + float(seconds))
            else:
                pixels = decode_png(self._images.read(*self._locate(row), name))
        except ValueError as error:
            raise CorruptRecord(f"{self.describe(episode, step)}, feature {name!r}: {error}") from None
        if list(pixels.shape) != list(feature["shape"]):
            raise CorruptRecord(
                f"{self.describe(episode, step)}, feature {name!r}: the picture has shape {list(pixels.shape)}, "
                f"info.json says {feature['shape']}; correct one of them"
            )
        return pixels

    def describe(self, episode: int, step: int) -> str:
        """File, episode and frame, for messages."""
        stored = self.episodes[episode]
        return f"{stored.path}: episode {stored.number} frame {step}"

    def _row(self, episode: int, step: int) -> int:
        if not (0 <= episode < self.num_episodes and 0 <= step < self.episode_lengths[episode]):
            raise IndexError(f"{self.root}: no frame {step} in episode {episode} of {self.num_episodes}")
        return int(self.starts[episode]) + step

    def _locate(self, row: int) -> tuple[pathlib.Path, int]:
        path = self.episodes[int(np.searchsorted(self.starts, row, side="right")) - 1].path
        return path, row - self._first_row[path]
