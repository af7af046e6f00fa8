"""The episodes of a job. Each has a name that never changes, so work can be split, taken up again and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from eval.envs.environment import EVALUATION_SEED

NORMAL = "normal"
CONTROLS = ("shuffled_instruction", "blank_image", "untrained")  # without words, sight or training it must fail


@dataclasses.dataclass(frozen=True)
class Episode:
    """Number `index` of a task with an arm under a condition: `normal`, a control or a shift of the suite."""

    task: str
    arm: str
    condition: str
    index: int

    @property
    def id(self) -> str:
        return f"{self.task}/{self.arm}/{self.condition}/{self.index:04d}"

    @property
    def seed(self) -> int:
        """The same for every condition and checkpoint, and never one of training."""
        return EVALUATION_SEED + self.index

    @property
    def group(self) -> dict[str, str]:
        return {"task": self.task, "arm": self.arm, "condition": self.condition}


def plan(tasks: Sequence[tuple[str, str]], conditions: Sequence[str], episodes: int) -> list[Episode]:
    """`episodes` of each (task, arm) under each condition; those of all arms of a task and condition side by side."""
    names = list(dict.fromkeys(task for task, _ in tasks))
    arms = {name: [arm for task, arm in tasks if task == name] for name in names}
    return [
        Episode(task, arm, condition, index)
        for task in names
        for condition in conditions
        for index in range(episodes)
        for arm in arms[task]
    ]


def share(episodes: Sequence[Episode], host: int, hosts: int) -> list[Episode]:
    """What one of several hosts runs: every `hosts`-th episode, whichever are done already."""
    return list(episodes[host::hosts])
