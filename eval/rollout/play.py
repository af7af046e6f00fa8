"""One episode in a worker process, from a job that says all about it."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from data.lerobot import encode_png
from eval.envs import registry
from eval.envs.disturbance import Disturbance
from eval.envs.environment import Environment, Sight
from eval.rollout.collect import ACTION, STATE, Made

SUCCESS, PLAN = "next.success", "annotation.plan"
Act = Callable[[Sight], tuple[np.ndarray, np.ndarray]]  # what is recorded and what is carried out, float32[a] each


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a robot is asked to do, and how it is seen: the arguments of `registry.make`."""

    suite: str
    task: str
    robot: str
    wording: str
    cameras: tuple[str, ...]
    image_size: int


@dataclasses.dataclass(frozen=True)
class Job:
    """An episode: of the scripted expert, or of the policy in a checkpoint where one is named.

    noise: largest standard deviation of the expert's disturbance, in the units of the actions. hold: steps recorded
    after success. anywhere: whether robots start there, see `Environment.reset`. skip: the expert takes from 0 to so
    many steps, evenly drawn, before recording begins. steps: that an episode has at most; None = as many as the task
    gives. execute: control steps of each of the policy's chunks.
    """

    scene: Scene
    seed: int = 0
    noise: float = 0.0
    hold: int = 0
    anywhere: bool = False
    skip: int = 0
    steps: int | None = None
    policy: str | None = None
    execute: int = 1


def image_key(camera: str) -> str:
    return f"observation.images.{camera}"


@functools.lru_cache(maxsize=1)  # jobs come task by task
def environment(scene: Scene) -> Environment:
    """The environment of a scene, made once in a row."""
    return registry.make(
        scene.suite,
        scene.task,
        scene.robot,
        wording=scene.wording,
        cameras=scene.cameras,
        image_size=scene.image_size,
    )


def play(job: Job) -> Made:
    """Instruction, dataset columns and success; pictures are encoded here, so that writing stays cheap."""
    env = environment(job.scene)
    env.reset(job.seed, job.anywhere)
    expert = _disturbed(env, job)
    act = _followed(env, job) if job.policy else lambda sight: expert()
    for _ in range(np.random.default_rng([job.seed, 2]).integers(job.skip + 1)):
        env.step(expert()[1])
    names = (STATE, ACTION, SUCCESS, *[PLAN] * bool(env.plan_names), *map(image_key, env.cameras))
    columns: dict[str, list] = {name: [] for name in names}
    left, done = min(env.max_steps, job.steps or env.max_steps), False
    while left:
        sight = env.observe()
        recorded, action = act(sight)
        if env.plan_names:
            columns[PLAN].append(env.plan())
        env.step(action)
        columns[STATE].append(sight.proprio)
        columns[ACTION].append(recorded)
        columns[SUCCESS].append([env.success])
        for camera, image in sight.images.items():
            columns[image_key(camera)].append(encode_png(image))
        left -= 1
        if env.success and not done:
            left, done = min(left, job.hold), True
    return env.instruction, columns, env.success


def _disturbed(env: Environment, job: Job) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """The expert; what is recorded is what it meant to do. Grippers are not disturbed: they would let go."""
    moved = [i for i, name in enumerate(env.action_names) if "gripper" not in name]
    disturbance = Disturbance(job.seed, job.noise, len(moved))

    def act() -> tuple[np.ndarray, np.ndarray]:
        meant = env.expert()
        push = np.zeros_like(meant)
        push[moved] = disturbance.next()
        return meant, meant + push

    return act


@functools.lru_cache(maxsize=1)
def _policy(path: str) -> Any:
    """Loaded once in each process; JAX is imported by those that need it alone."""
    from model.startup import prepare_kernels
    from serving.policy import Policy

    prepare_kernels()
    return Policy.load(path)


def _followed(env: Environment, job: Job) -> Act:
    """The first steps of each chunk; its noise follows from the episode and the step, whichever process asks."""
    from serving.policy import Observation

    policy, running, steps = _policy(str(job.policy)), [], 0

    def act(sight: Sight) -> tuple[np.ndarray, np.ndarray]:
        nonlocal running, steps
        if steps % job.execute == 0:
            seed = zlib.crc32(f"{job.scene.task}/{job.seed}/{steps}".encode())
            rest = np.stack(running) if running else None
            images = tuple(sight.images.values())
            observation = Observation(images, env.instruction, sight.proprio, env.embodiment, running=rest, seed=seed)
            running = list(policy.act([observation])[0])
        steps += 1
        action = running.pop(0)
        return action, action

    return act
