"""Closed-loop evaluation on the tabletop: unseen placements, unseen wordings, and conditions that must make it fail."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from eval.config import TabletopConfig
from eval.envs.tabletop import EVALUATION_SEED, TabletopBatch
from eval.wilson import wilson_interval
from serving.policy import Observation, Policy


@dataclasses.dataclass(frozen=True)
class Film:
    """Every control step of one episode: frames uint8[n,64,64,3]."""

    frames: np.ndarray
    instruction: str
    task: str
    arm: str
    success: bool


class Group:
    """The episodes of one task and arm under one condition, stepped together."""

    def __init__(self, envs: TabletopBatch, task: str, arm: str, condition: str, num_films: int):
        self.envs, self.task, self.arm, self.condition = envs, task, arm, condition
        self.observations = envs.reset([EVALUATION_SEED + i for i in range(len(envs.envs))])
        self.instructions = list(envs.instructions)
        if condition == "shuffled_instruction":
            self.instructions = shuffled(self.instructions)
        self.frames: list[list[np.ndarray]] = [[] for _ in range(num_films)]
        self._film()

    @property
    def active(self) -> np.ndarray:
        """Indices of the episodes that still run."""
        return np.flatnonzero(~self.envs.done)

    def asked(self) -> list[Observation]:
        """What the policy is shown of every active episode."""
        images = self.observations["image"]
        if self.condition == "blank_image":
            images = np.zeros_like(images)
        proprio = self.observations["proprio"]
        return [Observation((images[i],), self.instructions[i], proprio[i], self.arm) for i in self.active]

    def follow(self, chunks: Sequence[np.ndarray], steps: int) -> None:
        """Carry out the first `steps` actions of each active episode's chunk."""
        plan_NCa = np.zeros((len(self.envs.envs), *chunks[0].shape), np.float32)
        plan_NCa[self.active] = np.stack(chunks)
        plan_NCa[..., -1] = np.clip(plan_NCa[..., -1], 0, 1)
        for step in range(steps):
            last = step == steps - 1
            observations, _ = self.envs.step(plan_NCa[:, step], render=last)
            self._film()
            self.observations = observations if observations is not None else self.observations

    def _film(self) -> None:
        for index, frames in enumerate(self.frames):
            if not frames or not self.envs.done[index]:
                frames.append(self.envs.envs[index].observe()["image"])

    def films(self) -> Iterator[Film]:
        for index, frames in enumerate(self.frames):
            success = bool(self.envs.success[index])
            yield Film(np.stack(frames), self.instructions[index], self.task, self.arm, success)

    def record(self) -> dict:
        successes, episodes = int(self.envs.success.sum()), len(self.envs.envs)
        low, high = wilson_interval(successes, episodes)
        names = {"task": self.task, "arm": self.arm, "condition": self.condition}
        return names | {"episodes": episodes, "successes": successes, "low": low, "high": high}


def shuffled(instructions: Sequence[str]) -> list[str]:
    """Every episode gets the instruction of a later one that reads differently."""
    count = len(instructions)
    result = []
    for i, own in enumerate(instructions):
        others = (instructions[(i + shift) % count] for shift in range(1, count))
        result.append(next((text for text in others if text != own), own))
    return result


def evaluate(
    config: TabletopConfig,
    policy: Policy,
    untrained: Policy | None,
    on_group: Callable[[dict], None] = lambda record: None,
) -> tuple[list[dict], list[Film]]:
    """Records {task, arm, condition, episodes, successes, low, high} and the films of the normal condition.

    low, high: 95 % Wilson interval of the success rate.
    """
    records, films = [], []
    for task in config.tasks:
        envs = {arm: TabletopBatch(arm, task, config.episodes, config.wording) for arm in config.arms}
        for condition in config.conditions:
            num_films = config.films if condition == "normal" else 0
            groups = [Group(envs[arm], task, arm, condition, num_films) for arm in config.arms]
            actor = untrained if condition == "untrained" else policy
            assert actor is not None
            _run(groups, actor, config.execute)
            for group in groups:
                records.append(group.record())
                films += group.films()
                on_group(records[-1])
    return records, films


def _run(groups: Sequence[Group], policy: Policy, execute: int) -> None:
    """All episodes to their end; the policy sees those of all arms in one batch."""
    while running := [group for group in groups if len(group.active)]:
        chunks = policy.act([observation for group in running for observation in group.asked()])
        for group in running:
            count = len(group.active)
            group.follow(chunks[:count], execute)
            chunks = chunks[count:]
