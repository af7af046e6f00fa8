"""What is in a recorded dataset, in numbers."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np

from data.idle import idle_frames
from data.inspection.checks import numeric, state_of
from data.lerobot import LeRobotDataset, layout
from data.robot_dataset import RobotDataset
from data.statistics import describe


@dataclasses.dataclass(frozen=True)
class Summary:
    """lengths: frames of the shortest, the median and the longest episode. tasks: episodes that begin with each.

    numbers: min, q01, mean, q99 and max of each dim, by feature; the frames with NaN left out. rate: frames a second
    by the timestamps, where there are any. idle: share of the frames after which the robot hardly moves. left_out: why
    features of the files are not read, by name.
    """

    path: str
    format: str
    robot_type: str
    fps: float | None
    rate: float | None
    num_episodes: int
    num_frames: int
    lengths: tuple[int, int, int]
    tasks: dict[str, int]
    features: dict[str, dict[str, Any]]
    numbers: dict[str, dict[str, list[float]]]
    idle: float | None
    left_out: dict[str, str]

    @property
    def hours(self) -> float | None:
        return self.num_frames / self.fps / 3600 if self.fps else None

    def cameras(self) -> list[str]:
        return [name for name, feature in self.features.items() if layout.is_visual(feature)]


def summarise(dataset: RobotDataset) -> Summary:
    """Reads every number and no picture."""
    lengths = np.sort(dataset.episode_lengths)
    kind = f"LeRobotDataset {dataset.info['codebase_version']}" if isinstance(dataset, LeRobotDataset) else ""
    index_E = dataset.column("task_index")[dataset.starts[:-1], 0]
    told = collections.Counter(dataset.tasks.get(int(index), f"(no task {index})") for index in index_E)
    return Summary(
        path=str(dataset.root),
        format=kind or type(dataset).__name__.removesuffix("Dataset").upper(),
        robot_type=dataset.robot_type,
        fps=dataset.fps,
        rate=_rate(dataset),
        num_episodes=dataset.num_episodes,
        num_frames=dataset.num_frames,
        lengths=(int(lengths[0]), int(np.median(lengths)), int(lengths[-1])),
        tasks=dict(told.most_common()),
        features=dataset.features,
        numbers={name: _ranges(dataset.column(name)) for name in numeric(dataset)},
        idle=_idle(dataset),
        left_out=getattr(dataset, "left_out", {}),
    )


def dim_names(feature: dict[str, Any]) -> list[str]:
    """A name for each dim of a vector, "" where there is none; names may be nested in one more list or in a dict."""
    names, width = feature.get("names"), feature["shape"][0]
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], list):
        names = names[0]
    return [str(name) for name in names] if isinstance(names, list) and len(names) == width else [""] * width


def _ranges(values_NA: np.ndarray) -> dict[str, list[float]]:
    values_NA = values_NA.astype(np.float64)
    finite_NA = values_NA[np.isfinite(values_NA).all(axis=1)]
    if not len(finite_NA):
        return {}
    found = describe(finite_NA)
    return {name: found[name].tolist() for name in ("min", "q01", "mean", "q99", "max")}


def _idle(dataset: RobotDataset) -> float | None:
    name = state_of(dataset)
    return float(np.concatenate(idle_frames(dataset, name)).mean()) if name is not None else None


def _rate(dataset: RobotDataset) -> float | None:
    if "timestamp" not in dataset.features:
        return None
    seconds_N = dataset.column("timestamp")[:, 0].astype(np.float64)
    steps = np.delete(np.diff(seconds_N), dataset.starts[1:-1] - 1)
    return float(1 / np.median(steps)) if len(steps) and np.median(steps) > 0 else None
