"""What can be wrong with the numbers of a recorded dataset: one function a kind, each naming feature and frame."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from data.idle import CHUNK, THRESHOLD, idle_frames
from data.lerobot import LeRobotDataset, layout
from data.robot_dataset import RobotDataset

IDLE_SHARE = 0.1  # of frames; a robot may rest for so long without remark
STUCK_SHARE = 0.2  # of episodes; a dim that stands still in more of them (a gripper) is not stuck
_STATES = ("observation.state", "state")


@dataclasses.dataclass(frozen=True)
class Problem:
    """kind: short name of the kind. where: feature or file. what: how many, and the first of them."""

    kind: str
    where: str
    what: str


def numeric(dataset: RobotDataset) -> list[str]:
    """Names of the features that are numbers and not the format's own index."""
    return [
        name
        for name, feature in dataset.features.items()
        if layout.is_number(feature) and name not in layout.INDEX_FEATURES
    ]


def state_of(dataset: RobotDataset) -> str | None:
    """The feature that says how the robot stands: the usual names, or the first vector that is observed."""
    names = [name for name in numeric(dataset) if dataset.features[name]["shape"] != [1]]
    observed = [name for name in names if name.startswith("observation")]
    return next((name for name in (*_STATES, *observed, *names) if name in names), None)


def not_finite(dataset: RobotDataset) -> Iterator[Problem]:
    """NaN and infinity: training leaves the frames out, statistics too."""
    for name in numeric(dataset):
        bad_NA = ~np.isfinite(dataset.column(name).astype(np.float64))
        if bad_NA.any():
            rows = np.flatnonzero(bad_NA.any(axis=1))
            yield Problem(
                "not finite", name, f"{_dims(bad_NA.any(axis=0))} in {len(rows)} frames, {_at(dataset, rows)}"
            )


def constant_dims(dataset: RobotDataset) -> Iterator[Problem]:
    """Dims of a vector that have one value in the whole dataset: nothing can be learned from or for them."""
    for name in numeric(dataset):
        values_NA = dataset.column(name)
        same_A = (values_NA == values_NA[:1]).all(axis=0)
        if values_NA.shape[1] > 1 and same_A.any():
            yield Problem("constant", name, f"{_dims(same_A)} of {len(same_A)} never change")


def stuck_dims(dataset: RobotDataset) -> Iterator[Problem]:
    """Dims that stand still for a whole episode and move in nearly all others, as when a joint's encoder dies."""
    name = state_of(dataset)
    if name is None:
        return
    values_NA = dataset.column(name)
    still_EA = np.array([(part == part[:1]).all(axis=0) for part in _episodes(dataset, values_NA)])
    stuck_EA = still_EA & (still_EA.mean(axis=0) < STUCK_SHARE)
    episodes = np.flatnonzero(stuck_EA.any(axis=1) & (dataset.episode_lengths > 1))
    if len(episodes):
        first = episodes[0]
        dims = _dims(stuck_EA[first])
        yield Problem(
            "stuck", name, f"in {len(episodes)} episodes, the first {episode_number(dataset, first)} with {dims}"
        )


def idle(dataset: RobotDataset) -> Iterator[Problem]:
    """Many frames after which the robot hardly moves; `python -m data.idle` leaves them out."""
    name = state_of(dataset)
    if name is None:
        return
    idle_N = np.concatenate(idle_frames(dataset, name))
    if idle_N.mean() > IDLE_SHARE:
        what = f"{idle_N.mean():.0%} of the frames move less than {THRESHOLD:.0%} of the range in {CHUNK} frames"
        yield Problem("idle", name, f"{what}; leave them out with python -m data.idle")


def timestamps(dataset: RobotDataset) -> Iterator[Problem]:
    """Times that are not frame / fps: videos are looked up by them."""
    if "timestamp" not in dataset.features or dataset.fps is None:
        return
    period = 1 / dataset.fps
    late, uneven = [], []
    for episode, part in enumerate(_episodes(dataset, dataset.column("timestamp").astype(np.float64))):
        if abs(part[0, 0]) > period / 2:
            late.append((episode, part[0, 0]))
        wrong = np.flatnonzero(np.abs(np.diff(part[:, 0]) - period) > period / 10)
        uneven += [(episode, step + 1, part[step + 1, 0] - part[step, 0]) for step in wrong]
    if late:
        episode, begin = late[0]
        what = (
            f"begin at {begin:.3f} s and not at 0 in {len(late)} episodes, the first {episode_number(dataset, episode)}"
        )
        yield Problem("timestamps", "timestamp", what)
    if uneven:
        episode, step, seconds = uneven[0]
        where = f"the first at episode {episode_number(dataset, episode)} frame {step}"
        what = f"{len(uneven)} steps are not {period:.4f} s long, {where}: {seconds:.4f} s"
        yield Problem("timestamps", "timestamp", what)


def indices(dataset: RobotDataset) -> Iterator[Problem]:
    """frame_index, index and episode_index that do not count as the format has it."""
    if not isinstance(dataset, LeRobotDataset):
        return
    steps_N = np.concatenate([np.arange(length) for length in dataset.episode_lengths])
    numbers_N = np.repeat([episode.number for episode in dataset.episodes], dataset.episode_lengths)
    for name, expected_N in (("frame_index", steps_N), ("episode_index", numbers_N)):
        if name in dataset.features:
            rows = np.flatnonzero(dataset.column(name)[:, 0] != expected_N)
            if len(rows):
                yield Problem("index", name, f"{len(rows)} frames are counted otherwise, {_at(dataset, rows)}")


def instructions(dataset: RobotDataset) -> Iterator[Problem]:
    """Frames that tell the robot nothing, and tasks that no frame has."""
    index_N = dataset.column("task_index")[:, 0]
    unlisted = np.flatnonzero(~np.isin(index_N, list(dataset.tasks)))
    if len(unlisted):
        yield Problem(
            "instructions", "task_index", f"{len(unlisted)} frames name no listed task, {_at(dataset, unlisted)}"
        )
    empty = np.flatnonzero(np.isin(index_N, [n for n, task in dataset.tasks.items() if not task.strip()]))
    if len(empty):
        yield Problem("instructions", "task", f"{len(empty)} frames have none, {_at(dataset, empty)}")
    unused = [task for number, task in dataset.tasks.items() if task.strip() and number not in set(index_N.tolist())]
    if unused:
        yield Problem(
            "instructions", "task", f"{len(unused)} tasks belong to no frame: {', '.join(map(repr, unused[:3]))}"
        )


def repeated_episodes(dataset: RobotDataset) -> Iterator[Problem]:
    """Episodes with exactly the same actions: one recording stored twice, which may lie in training and validation."""
    if "action" not in dataset.features:
        return
    seen: dict[bytes, int] = {}
    repeated = []
    for episode, part in enumerate(_episodes(dataset, dataset.column("action"))):
        first = seen.setdefault(hashlib.sha256(part.tobytes()).digest(), episode)
        if first != episode:
            repeated.append((episode, first))
    if repeated:
        episode, first = (episode_number(dataset, e) for e in repeated[0])
        yield Problem("repeated", "action", f"{len(repeated)} episodes, the first {episode}, which is {first} again")


def _episodes(dataset: RobotDataset, values_NA: np.ndarray) -> list[np.ndarray]:
    return np.split(values_NA, dataset.starts[1:-1])


def episode_number(dataset: RobotDataset, episode: int) -> int:
    """The number that an episode carries, which may differ from its place."""
    return dataset.episodes[episode].number if isinstance(dataset, LeRobotDataset) else int(episode)


def _at(dataset: RobotDataset, rows: Sequence[int] | np.ndarray) -> str:
    episode = int(np.searchsorted(dataset.starts, rows[0], side="right")) - 1
    return f"the first at episode {episode_number(dataset, episode)} frame {rows[0] - dataset.starts[episode]}"


def _dims(which_A: np.ndarray) -> str:
    """Dims as "dims 3, 13-18"."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], which_A.astype(np.int8), [0]]))).reshape(-1, 2)
    spans = [str(a) if b - a == 1 else f"{a}-{b - 1}" for a, b in edges]
    return f"dim{'s' if which_A.sum() > 1 else ''} {', '.join(spans)}"
