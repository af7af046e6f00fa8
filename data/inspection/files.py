"""What can be wrong with the files of a recorded dataset: pictures, videos, and where they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from data.elements import CorruptRecord
from data.inspection.checks import Problem, episode_number
from data.lerobot import LeRobotDataset, layout
from data.lerobot.clips import count_frames
from data.robot_dataset import RobotDataset

PICTURES = 200  # that are decoded of each camera, over all episodes
VIDEOS = 200  # whose frames are counted, of each camera


def video_lengths(dataset: RobotDataset) -> Iterator[Problem]:
    """Videos with fewer or more frames than the rows of their episodes, among evenly spaced ones."""
    if not isinstance(dataset, LeRobotDataset):
        return
    for name, feature in dataset.features.items():
        if feature["dtype"] != "video":
            continue
        promised: dict = {}
        for episode in dataset.episodes:
            path = episode.videos[name].path
            promised[path] = promised.get(path, 0) + episode.length
        paths = list(promised)
        for path in (paths[place] for place in spread(len(paths), VIDEOS)):
            try:
                frames = count_frames(path)
            except ValueError as error:
                yield Problem("unreadable", name, str(error))
                continue
            if frames != promised[path]:
                yield Problem("lengths", name, f"{path} has {frames} frames, its episodes have {promised[path]} rows")


def pictures(dataset: RobotDataset) -> Iterator[Problem]:
    """Pictures that cannot be decoded, that show nothing, and cameras that froze, among evenly spaced ones."""
    for name, feature in dataset.features.items():
        if not layout.is_visual(feature):
            continue
        broken, blank, frozen, episodes = [], [], [], picked(dataset)
        for episode, steps in episodes:
            digests = set()
            for step in steps:
                try:
                    pixels = dataset.frame(episode, step, [name])[name]
                except CorruptRecord as error:
                    broken.append(str(error))
                    continue
                digests.add(hashlib.sha256(pixels.tobytes()).digest())
                if pixels.std(axis=(0, 1)).max() < 2:
                    blank.append(f"episode {episode_number(dataset, episode)} frame {step}")
            if len(digests) == 1 and len(steps) > 1:
                frozen.append(episode_number(dataset, episode))
        looked = sum(len(steps) for _, steps in episodes)
        if broken:
            yield Problem("pictures", name, f"{len(broken)} of {looked} cannot be read, the first: {broken[0]}")
        if blank:
            yield Problem("pictures", name, f"{len(blank)} of {looked} are of one colour, the first: {blank[0]}")
        if frozen and not blank:
            yield Problem(
                "pictures",
                name,
                f"the same all through {len(frozen)} of {len(episodes)} episodes, the first {frozen[0]}",
            )


def picked(dataset: RobotDataset) -> list[tuple[int, list[int]]]:
    """Episodes and steps whose pictures are looked at: first, last and between, `PICTURES` in all."""
    num = min(dataset.num_episodes, PICTURES // 2)
    each = min(5, PICTURES // num)
    chosen = np.unique(np.linspace(0, dataset.num_episodes - 1, num).round().astype(int))
    return [(int(e), spread(int(dataset.episode_lengths[e]), each)) for e in chosen]


def spread(length: int, num: int) -> list[int]:
    """At most `num` numbers of 0 .. length - 1, evenly spaced, the ends among them."""
    return np.unique(np.linspace(0, length - 1, num).round().astype(int)).tolist()


def moved_files(dataset: RobotDataset) -> Iterator[Problem]:
    """Files that do not lie where info.json says."""
    if not isinstance(dataset, LeRobotDataset) or dataset.info["codebase_version"] == layout.VERSION:
        return
    for episode in dataset.episodes:
        chunk = episode.number // dataset.info.get("chunks_size", layout.CHUNKS_SIZE)
        told = dataset.info["data_path"].format(episode_chunk=chunk, episode_index=episode.number)
        if episode.path != dataset.root / told:
            where = f"info.json has {told!r}, it lies at {str(episode.path.relative_to(dataset.root))!r}"
            yield Problem("files", "data_path", f"{where}; other readers will not find it")
            return
