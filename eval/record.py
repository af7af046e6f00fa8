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
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from data.lerobot import LeRobotWriter, encode_png
from eval.envs.tabletop import ARMS, CONTROL_HZ, TASKS, Tabletop, demonstrate
from eval.rollout.collect import (
    ACTION,
    POINTS,
    STATE,
    Count,
    Made,
    Run,
    check_seeds,
    collect,
    progress,
    runner,
    write_instructions,
)

IMAGE, PLAN = "observation.images.front", "annotation.plan"
SCENES_PER_EPISODE = 50  # stills are stored as episodes of this many frames
SCENE_TASK = "point at the objects and the zones"


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
        run = runner(stack, processes)
        for arm in arms if any(tasks.values()) else ():
            writer = stack.enter_context(LeRobotWriter(pathlib.Path(out) / arm, CONTROL_HZ, features(arm), arm))
            for task, episodes in tasks.items():
                job = functools.partial(_episode, Job(arm, task, seed, noise, anywhere, hold))
                counts[f"{task}/{arm}"] = collect(
                    run, _make, job, writer, episodes, f"{task} with {arm}", keep_failures, on_progress
                )
        if scenes:
            writer = LeRobotWriter(pathlib.Path(out) / "scenes", CONTROL_HZ, features(None), "tabletop")
            _record_scenes(run, stack.enter_context(writer), tasks, arms, seed, scenes, on_progress)
    write_instructions(pathlib.Path(out))
    return Summary(counts, scenes, time.perf_counter() - start)


def _episode(first: Job, attempt: int) -> Job:
    return dataclasses.replace(first, seed=first.seed + attempt)


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
    check_seeds(seed, most)
    if not 0 <= noise < 0.2 or processes < 1:
        raise ValueError(f"noise={noise}, processes={processes}: noise is 0 to 0.2 rad, processes at least 1")


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
    with progress("episodes and stills", sum(tasks.values()) * len(args.arm) + args.scenes) as on_progress:
        summary = record(
            args.out, tasks, args.arm, args.seed, args.noise, args.scenes, args.processes, args.anywhere, args.hold,
            args.keep_failures, on_progress,
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
