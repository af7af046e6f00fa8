"""Rewrites a recorded dataset as a LeRobotDataset v3.0 or v2.1.

    python -m data.convert SOURCE --to lerobot3 OUT
    python -m data.convert bridge_mini --to lerobot3 OUT --fps 5 --rename observation.image_0=observation.images.front
    python -m data.convert rt1 --to lerobot3 OUT --fps 3 --rename action.world_vector=action action.gripper=action

SOURCE is a LeRobotDataset (v3.0, v2.1, v2.0), an RLDS folder or TFRecord, or an .npz of episodes, as
`python -m data.inspect` reads them. Numbers and pictures stay what they are: videos are copied, or cut where an episode
begins, and never encoded again; timestamps are those of the frame rate. OUT appears whole or not at all.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.progress import track

from data.datasets import open_dataset
from data.elements import CorruptRecord
from data.lerobot import LeRobotDataset, LeRobotWriter, LeRobotWriterV21, layout
from data.lerobot.clips import cut
from data.robot_dataset import Report, RobotDataset

WRITERS: dict[str, type[LeRobotWriter]] = {"lerobot3": LeRobotWriter, "lerobot21": LeRobotWriterV21}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What of a dataset is written. as_images: videos become PNG images.

    rename: new names by old ones; numbers that get the same new name are joined end to end, in this order.
    """

    fps: float | None = None  # where the dataset states none
    task: str | None = None  # where a frame has no instruction
    rename: Mapping[str, str] = dataclasses.field(default_factory=dict)
    drop: Sequence[str] = ()
    as_images: bool = False


@dataclasses.dataclass(frozen=True)
class _Feature:
    """A feature that is written, and those of the source that it is made of."""

    described: dict[str, Any]
    parts: list[str]


def convert(
    source: RobotDataset,
    out: str | pathlib.Path,
    to: str,
    wanted: Wanted,
    report: Report | None = None,
    each: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> LeRobotDataset:
    """Writes `source` at `out` and opens what was written.

    report: told of each episode that cannot be written, which is then left out; without it that is an error. each:
    wraps the episodes, for a progress bar. Raises ValueError for settings that do not fit the dataset.
    """
    fps, features = _fps(source, wanted), _features(source, wanted)
    described = {name: feature.described for name, feature in features.items()}
    with WRITERS[to](out, fps, described, source.robot_type) as writer:
        videos = _Videos(source, [name for name, feature in described.items() if feature["dtype"] == "video"], features)
        for episode in each(range(source.num_episodes)):
            try:
                columns, tasks = _columns(source, episode, features), _tasks(source, episode, wanted.task)
                with videos.of(episode) as files:
                    writer.add_episode(columns, tasks, files)
            except ValueError as error:
                if report is None:
                    raise
                report(f"left out episode {episode}: {error}")
    return LeRobotDataset(out)


def _fps(source: RobotDataset, wanted: Wanted) -> float:
    if source.fps is not None and wanted.fps is not None and wanted.fps != source.fps:
        raise ValueError(f"fps is {wanted.fps}, {source.root} states {source.fps}; leave it out")
    fps = source.fps if source.fps is not None else wanted.fps
    if fps is None:
        raise ValueError(f"{source.root} does not state its frame rate; give it as --fps N")
    return fps


def _features(source: RobotDataset, wanted: Wanted) -> dict[str, _Feature]:
    """The features that are written, by their new name. Raises ValueError for names that are not there or clash."""
    unknown = sorted({*wanted.rename, *wanted.drop} - set(source.features))
    if unknown:
        raise ValueError(f"{source.root} has no features {unknown}; it has {sorted(source.features)}")
    parts: dict[str, list[str]] = {}
    kept = [name for name in source.features if name not in layout.INDEX_FEATURES and name not in wanted.drop]
    for name in [*(name for name in wanted.rename if name in kept), *(n for n in kept if n not in wanted.rename)]:
        parts.setdefault(wanted.rename.get(name, name), []).append(name)
    found = {}
    for new, old in parts.items():
        feature = source.features[old[0]]
        if len(old) > 1:
            if old[-1] not in wanted.rename or not all(layout.is_number(source.features[name]) for name in old):
                raise ValueError(f"rename gives {old} one name, {new!r}; only numbers are joined: choose other names")
            dtype = np.result_type(*(source.features[name]["dtype"] for name in old))
            width = sum(source.features[name]["shape"][0] for name in old)
            feature = {"dtype": str(dtype), "shape": [width], "names": None}
        elif layout.is_visual(feature):
            video = feature["dtype"] == "video" and not wanted.as_images
            feature = {"dtype": "video" if video else "image", "shape": feature["shape"], "names": feature.get("names")}
        found[new] = _Feature(feature, old)
    return found


def _columns(source: RobotDataset, episode: int, features: Mapping[str, _Feature]) -> dict[str, Any]:
    """All that is stored in rows of an episode."""
    length, start = int(source.episode_lengths[episode]), int(source.starts[episode])
    columns: dict[str, Any] = {}
    for name, feature in features.items():
        if feature.described["dtype"] == "image":
            steps = (source.frame(episode, step, feature.parts) for step in range(length))
            columns[name] = [pixels for frame in steps for pixels in frame.values()]
        elif feature.described["dtype"] != "video":
            parts = [source.column(part)[start : start + length] for part in feature.parts]
            columns[name] = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return columns


def _tasks(source: RobotDataset, episode: int, otherwise: str | None) -> list[str]:
    """The instruction of every frame."""
    found = []
    for step in range(int(source.episode_lengths[episode])):
        task = source.frame_task(episode, step) or otherwise
        if task is None:
            raise ValueError(f"{source.describe(episode, step)} has no instruction; give one as --task TEXT")
        found.append(task)
    return found


class _Videos:
    """Files that hold the frames of one episode alone, which may have to be cut out of longer ones."""

    def __init__(self, source: RobotDataset, names: Sequence[str], features: Mapping[str, _Feature]):
        self._source, self._parts = source, {name: features[name].parts[0] for name in names}
        episodes = source.episodes if isinstance(source, LeRobotDataset) else []
        self._sharing = collections.Counter(video.path for episode in episodes for video in episode.videos.values())

    @contextlib.contextmanager
    def of(self, episode: int) -> Iterator[dict[str, pathlib.Path]]:
        """The file of each camera, for as long as the context lasts."""
        with tempfile.TemporaryDirectory() as folder:
            places = ((name, pathlib.Path(folder) / f"{number}.mp4") for number, name in enumerate(self._parts))
            yield {name: self._file(episode, self._parts[name], place) for name, place in places}

    def _file(self, episode: int, name: str, cutting: pathlib.Path) -> pathlib.Path:
        assert isinstance(self._source, LeRobotDataset)
        video, fps = self._source.episodes[episode].videos[name], self._source.fps
        if not video.path.is_file():
            raise CorruptRecord(f"{video.path}: the video file is missing; copy it again or leave the episode out")
        if self._sharing[video.path] == 1:
            return video.path
        assert fps is not None
        try:
            cut(video.path, video.start, int(self._source.episode_lengths[episode]), fps, cutting)
        except ValueError as error:
            raise ValueError(f"{error}; write its pictures as PNG with --images") from None
        return cutting


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise argparse.ArgumentTypeError(f"{text!r} is not OLD=NEW")
    return old, new


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m data.convert", description="Rewrites a dataset of a robot.")
    parser.add_argument("source", help="LeRobot or RLDS folder, .tfrecord or .npz")
    parser.add_argument("out", help="folder that does not exist yet")
    parser.add_argument("--to", choices=sorted(WRITERS), required=True)
    parser.add_argument("--fps", type=float, help="frames a second, where the source states none")
    parser.add_argument("--task", help="instruction, where a frame has none")
    parser.add_argument(
        "--rename", type=_pair, nargs="+", default=[], metavar="OLD=NEW", help="numbers of one NEW: joined"
    )
    parser.add_argument("--drop", nargs="+", default=[], metavar="FEATURE")
    parser.add_argument("--images", action="store_true", help="write the pictures of videos as PNG")
    parser.add_argument("--lenient", action="store_true", help="leave out what cannot be read, and say so")
    given = parser.parse_args(arguments)
    report = (lambda problem: print(f"warning: {problem}", file=sys.stderr)) if given.lenient else None
    wanted = Wanted(given.fps, given.task, dict(given.rename), given.drop, given.images)
    try:
        source = open_dataset(given.source, report)
        for name, why in getattr(source, "left_out", {}).items():
            print(f"warning: left out feature {name}: {why}", file=sys.stderr)
        written = convert(source, given.out, given.to, wanted, report, lambda episodes: track(episodes, "episodes"))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(
        f"{given.out}: {written.info['codebase_version']}, {written.num_episodes} episodes, {written.num_frames} frames"
    )


if __name__ == "__main__":
    main()
