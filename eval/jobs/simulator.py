"""Episodes side by side in one process: what the policy is to be asked, and what came of what it answered.

No JAX here: simulators run in processes of their own, with the policy in none of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from eval.envs.environment import Environment
from eval.jobs.episodes import NORMAL, Episode

Make = Callable[[str, str, str], Environment]  # of a task, an arm, and a shift or ""
Told = Literal["language", "image", "both"]
Task = tuple[str, dict[str, np.ndarray]]  # instruction, and pictures of the goal by camera
FILM_HZ = 10
IDLE = 8  # environments that are kept without an episode; those of large suites take tens of megabytes


@dataclasses.dataclass(frozen=True)
class Start:
    """Begin an episode in a lane."""

    lane: int
    episode: Episode


@dataclasses.dataclass(frozen=True)
class Act:
    """Carry out a chunk in a lane, float32[C,a]."""

    lane: int
    chunk: np.ndarray


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the policy is shown of a lane's episode: uint8[H,W,3] by camera, float32[a]; `running` is what it has of the
    last chunk, float32[n,a]. Told in pictures, an arm is shown how things shall look (`goal`), else that is empty; told
    in pictures alone, its instruction is empty."""

    lane: int
    episode: Episode
    step: int
    images: dict[str, np.ndarray]
    instruction: str
    proprio: np.ndarray
    running: np.ndarray | None
    goal: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a lane's episode went; frames uint8[n,H,W,3] where it is filmed."""

    lane: int
    record: dict[str, Any]
    frames: np.ndarray | None


Order = Start | Act
Report = Seen | Ended


@dataclasses.dataclass(frozen=True)
class Stage:
    """How a suite's episodes run in a simulator.

    make: an environment; others: episodes that are told something else; both are pickled to processes. shifts:
    conditions that `make` knows. told: how each arm is told what to do. execute: control steps of each chunk before the
    policy looks again. films: so many episodes of a task and arm are filmed, and one under each shift.
    """

    make: Make
    others: Callable[[Episode], Sequence[Episode]]
    shifts: tuple[str, ...]
    told: Mapping[str, Told]
    execute: int
    films: int


@dataclasses.dataclass
class _Lane:
    episode: Episode
    env: Environment
    instruction: str
    goal: dict[str, np.ndarray]
    step: int = 0
    running: np.ndarray | None = None
    frames: list[np.ndarray] | None = None


class Simulator:
    """Lanes of running episodes, and a pool of environments that wait for one of their kind."""

    def __init__(self, stage: Stage):
        self._stage = stage
        self._lanes: dict[int, _Lane] = {}
        self._idle: list[tuple[tuple[str, str, str], Environment]] = []  # by (task, arm, shift)

    def carry_out(self, orders: Sequence[Order]) -> list[Report]:
        """One report an order. Raises ValueError for what the environments refuse."""
        return [self._start(order) if isinstance(order, Start) else self._act(order) for order in orders]

    def close(self) -> None:
        for env in [lane.env for lane in self._lanes.values()] + [env for _, env in self._idle]:
            env.close()
        self._lanes, self._idle = {}, []

    def _start(self, order: Start) -> Seen:
        episode = order.episode
        env = self._take(episode)
        instruction, goal = self._task(env, episode)
        if episode.condition == "shuffled_instruction":
            instruction, goal = self._other_task(episode, instruction, goal)
        lane = _Lane(episode, env, instruction, goal)
        if episode.index < self._films(episode.condition):
            lane.frames = [_frame(env)]
        self._lanes[order.lane] = lane
        return self._seen(order.lane)

    def _act(self, order: Act) -> Report:
        lane = self._lanes[order.lane]
        for action in order.chunk[: self._stage.execute]:
            lane.env.step(action)
            lane.step += 1
            over = lane.env.success or lane.step >= lane.env.max_steps
            if lane.frames is not None and (over or lane.step % _steps_a_frame(lane.env) == 0):
                lane.frames.append(_frame(lane.env))
            if over:
                return self._end(order.lane)
        lane.running = order.chunk[self._stage.execute :]
        return self._seen(order.lane)

    def _seen(self, index: int) -> Seen:
        lane = self._lanes[index]
        sight, show = lane.env.observe(), dict
        if lane.episode.condition == "blank_image":
            show = lambda images: {name: np.zeros_like(image) for name, image in images.items()}  # noqa: E731
        instruction = "" if self._stage.told[lane.episode.arm] == "image" else lane.instruction
        shown, goal = show(sight.images), show(lane.goal)
        return Seen(index, lane.episode, lane.step, shown, instruction, sight.proprio, lane.running, goal)

    def _end(self, index: int) -> Ended:
        lane = self._lanes.pop(index)
        episode, success = lane.episode, bool(lane.env.success)
        record = {"id": episode.id, **episode.group, "seed": episode.seed, "instruction": lane.instruction}
        self._give(episode, lane.env)
        frames = None if lane.frames is None else np.stack(lane.frames)
        return Ended(index, record | {"success": success, "steps": lane.step}, frames)

    def _task(self, env: Environment, episode: Episode) -> Task:
        """Begins an episode: what it is told and, where an arm is told in pictures, how its expert leaves things."""
        env.reset(episode.seed)
        if self._stage.told[episode.arm] == "language":
            return env.instruction, {}
        for _ in range(env.max_steps):
            if env.success:
                break
            env.step(env.expert())
        goal = dict(env.observe().images)
        env.reset(episode.seed)
        return env.instruction, goal

    def _other_task(self, episode: Episode, instruction: str, goal: dict[str, np.ndarray]) -> Task:
        """What the first of other episodes is told that is told something else; `episode`'s own where there is none."""
        for other in self._stage.others(episode):
            env = self._take(other)
            told = self._task(env, other)
            self._give(other, env)
            if told[0] != instruction:
                return told
        return instruction, goal

    def _films(self, condition: str) -> int:
        films = self._stage.films
        return films if condition == NORMAL else min(films, 1) if condition in self._stage.shifts else 0

    def _kind(self, episode: Episode) -> tuple[str, str, str]:
        shift = episode.condition if episode.condition in self._stage.shifts else ""
        return episode.task, episode.arm, shift

    def _take(self, episode: Episode) -> Environment:
        kind = self._kind(episode)
        for index, (other, env) in enumerate(self._idle):
            if other == kind:
                del self._idle[index]
                return env
        return self._stage.make(*kind)

    def _give(self, episode: Episode, env: Environment) -> None:
        self._idle.append((self._kind(episode), env))
        if len(self._idle) > IDLE:
            _, oldest = self._idle.pop(0)
            oldest.close()


def _steps_a_frame(env: Environment) -> int:
    return max(1, round(env.control_hz / FILM_HZ))


def _frame(env: Environment) -> np.ndarray:
    return next(iter(env.observe().images.values()))
