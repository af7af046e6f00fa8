"""Records episodes of a suite's robots, one LeRobotDataset v3.0 a robot."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from data.lerobot import LeRobotWriter
from eval.envs.environment import Environment
from eval.rollout.collect import ACTION, STATE, Count, check_seeds, collect, runner, write_instructions
from eval.rollout.play import PLAN, SUCCESS, Job, Scene, environment, image_key, play


@dataclasses.dataclass(frozen=True)
class Summary:
    """Counts of each "task/robot", seconds taken."""

    episodes: dict[str, Count]
    seconds: float


def features(env: Environment, image_size: int) -> dict[str, dict[str, Any]]:
    """The dataset features of a robot."""
    picture = {"dtype": "image", "shape": [image_size, image_size, 3], "names": ["height", "width", "channels"]}
    columns = {STATE: env.proprio_names, ACTION: env.action_names}
    if env.plan_names:
        columns[PLAN] = env.plan_names
    return {
        **{image_key(camera): picture for camera in env.cameras},
        **{key: {"dtype": "float32", "shape": [len(n)], "names": list(n)} for key, n in columns.items()},
        SUCCESS: {"dtype": "bool", "shape": [1], "names": None},
    }


def rollout(
    out: str | pathlib.Path,
    jobs: Mapping[str, list[Job]],
    episodes: int,
    processes: int = 1,
    keep_failures: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Summary:
    """Writes `episodes` episodes of every job of each robot under OUT/robot, and OUT/instructions.txt.

    Attempt i of a job has its seed plus i; a failed one is replaced by the next seed unless `keep_failures`. What is
    recorded does not depend on `processes`. `on_progress` is told how many episodes were finished. Raises ValueError
    for numbers out of range, a folder that is not empty, a package that is missing, or where too many attempts fail.
    """
    if episodes < 1 or processes < 1:
        raise ValueError(f"episodes={episodes}, processes={processes}: both are at least 1")
    for job in (job for of_robot in jobs.values() for job in of_robot):
        _check(job, episodes)
    start, counts = time.perf_counter(), {}
    with contextlib.ExitStack() as stack:
        run = runner(stack, processes)
        stack.callback(environment.cache_clear)
        for robot, of_robot in jobs.items():
            env = environment(of_robot[0].scene)
            shape, hz = features(env, of_robot[0].scene.image_size), env.control_hz
            writer = stack.enter_context(
                LeRobotWriter(pathlib.Path(out) / robot, int(hz) if hz == int(hz) else hz, shape, robot)
            )
            for job in of_robot:
                task, attempt = job.scene.task, functools.partial(_attempt, job)
                counts[f"{task}/{robot}"] = collect(
                    run, play, attempt, writer, episodes, f"{task} with {robot}", keep_failures, on_progress
                )
    write_instructions(pathlib.Path(out))
    return Summary(counts, time.perf_counter() - start)


def jobs_of(scene: Scene, tasks: list[str], robots: list[str], **settings: Any) -> dict[str, list[Job]]:
    """One job a task for each robot, like `scene` but for those two."""
    return {
        robot: [Job(dataclasses.replace(scene, task=task, robot=robot), **settings) for task in tasks]
        for robot in robots
    }


def _attempt(first: Job, attempt: int) -> Job:
    return dataclasses.replace(first, seed=first.seed + attempt)


def _check(job: Job, episodes: int) -> None:
    check_seeds(job.seed, episodes)
    if not 0 <= job.noise <= 1 or min(job.hold, job.skip) < 0 or job.execute < 1:
        raise ValueError(
            f"noise={job.noise}, hold={job.hold}, skip={job.skip}, execute={job.execute}: noise is 0 to 1, hold and "
            "skip at least 0 steps, execute at least 1 step"
        )
    if job.steps is not None and job.steps < 1:
        raise ValueError(f"steps={job.steps}: an episode has at least 1; leave it out for as many as the task gives")
    if job.policy and (job.noise or job.skip):
        raise ValueError(
            f"noise={job.noise}, skip={job.skip} with a policy: only an expert is disturbed or goes ahead; leave both 0"
        )
