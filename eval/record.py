"""Records tabletop demonstrations as LeRobotDataset v3.0, one dataset an arm.

    python -m eval.record --out data/demos --task reach push --arm arm5 arm6 --episodes 100 --noise 0.02 --scenes 1000

Episodes of `--arm A` go to OUT/A with the features `observation.images.front`, `observation.state`, `action` (what the
expert meant to do, without the disturbance), `annotation.points` and `annotation.plan` (what to move, and where to).
Stills go to OUT/scenes with picture and points, all sentences to OUT/instructions.txt. What is recorded depends on the
seed and not on the number of processes; seeds of evaluation episodes are refused.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import multiprocessing
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data.lerobot import LeRobotDataset, LeRobotWriter, encode_png
from eval.envs.tabletop import ARMS, CONTROL_HZ, EVALUATION_SEED, TASKS, Tabletop, demonstrate

IMAGE, STATE, ACTION = "observation.images.front", "observation.state", "action"
POINTS, PLAN = "annotation.points", "annotation.plan"
MAX_TRIES = 4  # attempts for each episode asked for
SCENES_PER_EPISODE = 50  # stills are stored as episodes of this many frames
SCENE_TASK = "point at the objects and the zones"
Columns = dict[str, list]
Made = tuple[str, Columns, bool]


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker process makes: an episode, or stills where `num_scenes` is not 0."""

    arm: str
    task: str
    seed: int
    noise: float = 0.0
    anywhere: bool = False
    hold: int = 0
    num_scenes: int = 0


Run = Callable[[Callable[[Job], Made], Iterable[Job]], Iterable[Made]]


@dataclasses.dataclass(frozen=True)
class Ask:
    """The episodes wanted of one task and arm."""

    arm: str
    task: str
    episodes: int
    seed: int
    noise: float
    anywhere: bool
    hold: int
    keep_failures: bool


@dataclasses.dataclass(frozen=True)
class Count:
    """What one task and arm came to, failed attempts included."""

    successes: int
    attempts: int
    frames: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """Counts of each "task/arm", stills written, seconds taken."""

    episodes: dict[str, Count]
    scenes: int
    seconds: float


def features(arm: str | None) -> dict[str, dict[str, Any]]:
    """The dataset features of an arm, or of stills where `arm` is None."""
    shared = {
        IMAGE: {"dtype": "image", "shape": [64, 64, 3], "names": ["height", "width", "channels"]},
        POINTS: {"dtype": "string", "shape": [1], "names": None},
    }
    if arm is None:
        return shared
    columns = {STATE: ARMS[arm].proprio_names, ACTION: ARMS[arm].action_names}
    vectors = {key: {"dtype": "float32", "shape": [len(n)], "names": list(n)} for key, n in columns.items()}
    plan = {"dtype": "float32", "shape": [4], "names": ["from_y", "from_x", "to_y", "to_x"]}
    return {IMAGE: shared[IMAGE], **vectors, POINTS: shared[POINTS], PLAN: plan}


def record(
    out: str | pathlib.Path,
    tasks: Mapping[str, int],
    arms: Sequence[str] = tuple(ARMS),
    seed: int = 0,
    noise: float = 0.02,
    scenes: int = 0,
    processes: int = 1,
    anywhere: bool = False,
    hold: int = 0,
    keep_failures: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Summary:
    """Writes `tasks[name]` episodes of each task for each arm, and `scenes` stills, under `out`.

    Episode i of a task and arm has seed `seed` + i; a failed one is replaced by the next seed unless `keep_failures`.
    `noise` is the largest disturbance of a joint in radians (standard deviation), `anywhere` and `hold` as in
    `demonstrate`. `on_progress` is told how many episodes and stills were finished. Raises ValueError for names that
    are not known, numbers out of range, a folder that is not empty, or noise at which the expert fails too often.
    """
    _check(tasks, arms, seed, noise, scenes, processes)
    start, counts = time.perf_counter(), {}
    with contextlib.ExitStack() as stack:
        run = _runner(stack, processes)
        for arm in arms if any(tasks.values()) else ():
            writer = stack.enter_context(LeRobotWriter(pathlib.Path(out) / arm, CONTROL_HZ, features(arm), arm))
            for task, wanted in tasks.items():
                ask = Ask(arm, task, wanted, seed, noise, anywhere, hold, keep_failures)
                counts[f"{task}/{arm}"] = _record_episodes(run, writer, ask, on_progress)
        if scenes:
            writer = LeRobotWriter(pathlib.Path(out) / "scenes", CONTROL_HZ, features(None), "tabletop")
            _record_scenes(run, stack.enter_context(writer), tasks, arms, seed, scenes, on_progress)
    _write_instructions(pathlib.Path(out))
    return Summary(counts, scenes, time.perf_counter() - start)


def _write_instructions(out: pathlib.Path) -> None:
    """`instructions.txt`: what every episode was told and what things are called, for training a vocabulary."""
    lines = []
    for root in sorted(path.parent.parent for path in out.glob("*/meta/info.json")):
        dataset = LeRobotDataset(root)
        lines += [dataset.episode_task(episode) for episode in range(dataset.num_episodes)]
        lines += [
            point["label"] for text in dataset.column(POINTS)[:: SCENES_PER_EPISODE // 5] for point in json.loads(text)
        ]
    (out / "instructions.txt").write_text("".join(f" {line}\n" for line in lines))  # as inside a sentence


def _record_episodes(run: Run, writer: LeRobotWriter, ask: Ask, on_progress: Callable[[int], None]) -> Count:
    """Attempts seeds in order, first as many as are asked for, then replacements for those that failed."""
    kept = successes = attempts = frames = 0
    while kept < ask.episodes:
        if attempts >= MAX_TRIES * ask.episodes:
            raise ValueError(
                f"noise={ask.noise}: only {successes} of {attempts} attempts at {ask.task} with {ask.arm} succeeded; "
                "use less noise"
            )
        first = ask.seed + attempts
        jobs = [
            Job(ask.arm, ask.task, first + i, ask.noise, ask.anywhere, ask.hold) for i in range(ask.episodes - kept)
        ]
        for sentence, columns, success in run(_make, jobs):
            attempts, successes, frames = attempts + 1, successes + success, frames + len(columns[ACTION])
            if success or ask.keep_failures:
                writer.add_episode(columns, sentence)
                kept += 1
                on_progress(1)
    return Count(successes, attempts, frames)


def _record_scenes(
    run: Run,
    writer: LeRobotWriter,
    tasks: Iterable[str],
    arms: Sequence[str],
    seed: int,
    scenes: int,
    on_progress: Callable[[int], None],
) -> None:
    kinds = itertools.cycle(itertools.product(tasks, arms))
    jobs = [
        Job(arm, task, seed + first, num_scenes=min(SCENES_PER_EPISODE, scenes - first))
        for first, (task, arm) in zip(range(0, scenes, SCENES_PER_EPISODE), kinds, strict=False)
    ]
    for sentence, columns, _ in run(_make, jobs):
        writer.add_episode(columns, sentence)
        on_progress(len(columns[IMAGE]))


def _check(tasks: Mapping[str, int], arms: Sequence[str], seed: int, noise: float, scenes: int, processes: int) -> None:
    for kind, names, allowed in (("task", tasks, TASKS), ("arm", arms, ARMS)):
        unknown = [name for name in names if name not in allowed]
        if unknown:
            raise ValueError(f"{kind} {unknown[0]!r} is not known; choose from {', '.join(allowed)}")
    most = max([*tasks.values(), scenes, 0])
    if min([*tasks.values(), scenes, 0]) < 0 or most == 0 or not arms:
        raise ValueError(f"episodes={dict(tasks)} and scenes={scenes}: give numbers from 0 up, and one above 0")
    if not 0 <= seed <= seed + MAX_TRIES * most < EVALUATION_SEED:
        raise ValueError(
            f"seed={seed}: seeds of recorded episodes lie in 0..{EVALUATION_SEED - 1}; those from {EVALUATION_SEED} up "
            "are kept for evaluation"
        )
    if not 0 <= noise < 0.2 or processes < 1:
        raise ValueError(f"noise={noise}, processes={processes}: noise is 0 to 0.2 rad, processes at least 1")


def _runner(stack: contextlib.ExitStack, processes: int) -> Run:
    """`map` in order, over fresh processes when there are several: a forked one would inherit a broken JAX."""
    if processes == 1:
        return map
    pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(processes))
    return functools.partial(pool.imap, chunksize=1)


@functools.lru_cache(maxsize=len(ARMS) * len(TASKS))
def _environment(arm: str, task: str) -> Tabletop:
    return Tabletop(arm, task)


def _make(job: Job) -> Made:
    """Instruction, dataset columns and success of one job; pictures are encoded here so that writing stays cheap."""
    environment = _environment(job.arm, job.task)
    if job.num_scenes:
        pictures, points = [], []
        for seed in range(job.seed, job.seed + job.num_scenes):
            pictures.append(encode_png(environment.scene(seed)[0]["image"]))
            points.append(json.dumps(environment.grounded()))
        return SCENE_TASK, {IMAGE: pictures, POINTS: points}, True
    episode = demonstrate(environment, job.seed, job.noise, job.anywhere, job.hold)
    columns = {
        IMAGE: [encode_png(image) for image in episode.images],
        STATE: episode.proprio,
        ACTION: episode.actions,
        POINTS: [json.dumps(points) for points in episode.points],
        PLAN: episode.plans,
    }
    return episode.instruction, columns, episode.success


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m eval.record", description="Records tabletop demonstrations.")
    parser.add_argument("--out", required=True, help="folder for the datasets, one an arm")
    parser.add_argument("--task", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--arm", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--episodes", type=int, nargs="+", default=[100], help="for an arm, of every or of each task")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode of each task")
    parser.add_argument("--noise", type=float, default=0.02, help="largest disturbance of a joint, in radians")
    parser.add_argument("--anywhere", action="store_true", help="arms start anywhere over the table")
    parser.add_argument("--hold", type=int, default=0, help="steps recorded after success")
    parser.add_argument("--scenes", type=int, default=0, help="annotated stills, in OUT/scenes")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep-failures", action="store_true", help="write failed episodes too")
    args = parser.parse_args()
    episodes: list[int] = args.episodes
    if len(episodes) not in (1, len(args.task)):
        raise ValueError(f"--episodes {episodes}: give one number, or one for each of the {len(args.task)} tasks")
    tasks = dict(zip(args.task, episodes * len(args.task) if len(episodes) == 1 else episodes, strict=True))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("episodes and stills", total=sum(tasks.values()) * len(args.arm) + args.scenes)
        summary = record(
            args.out, tasks, args.arm, args.seed, args.noise, args.scenes, args.processes, args.anywhere, args.hold,
            args.keep_failures, on_progress=lambda done: progress.advance(bar, done),
        )  # fmt: skip
    for name, count in summary.episodes.items():
        print(f"{name}: {count.successes} of {count.attempts} attempts succeeded")
    frames = summary.scenes + sum(count.frames for count in summary.episodes.values())
    print(f"{frames} pictures in {summary.seconds:.1f} s, {frames / summary.seconds:.0f} a second")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
