"""The `evaluate` section of a config: which phases are judged, by what."""

from __future__ import annotations

import dataclasses
from typing import Literal

from ml_collections import ConfigDict

from configs.schema import complete
from data.sources import SourceConfig
from eval.envs import registry
from eval.jobs.episodes import CONTROLS, NORMAL
from eval.jobs.suites import conditions_of


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Held-out text of one source: bits per byte of the phases `teacher` and `student`, and continuations of
    prompts."""

    source: str
    teacher: str
    student: str
    prompts: tuple[str, ...] = ()
    num_tokens: int = 80
    temperature: float = 0.8


@dataclasses.dataclass(frozen=True)
class RobotConfig:
    """Closed-loop episodes of the policy that phase `policy` ended with, on one suite of simulated robots.

    tasks, arms: of the suite; () = all. conditions: "normal", controls in which it must fail, shifts away from training
    by name, or "visual", "instruction" and "action" for all shifts of a kind. episodes: of each task, arm and
    condition. execute: control steps of each predicted chunk that are carried out before the policy looks again.
    wording: the sentences robots are told, "train" or "test". goal: told in words ("language"), by pictures of how an
    expert leaves the same scene ("image"), or "both"; None = as in training. batch_size: episodes side by side in each
    process. films: episodes of each task and arm that are kept as pictures, and one under each shift. processes: so
    many simulate, beside the one of the policy; 1 = all in one. slots: of a row; None = as in training, more are needed
    where instructions are longer. image_size: pixels a side that cameras draw; None = as the suite has it.
    """

    policy: str
    tasks: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    conditions: tuple[str, ...] = (NORMAL, *CONTROLS)
    episodes: int = 50
    execute: int = 4
    wording: str = "test"
    goal: Literal["language", "image", "both"] | None = None
    batch_size: int = 64
    films: int = 4
    processes: int = 1
    slots: int | None = None
    image_size: int | None = None

    def __post_init__(self):
        if not self.conditions:
            raise ValueError(f"conditions is (); give at least one, such as {NORMAL!r}")
        for field in ("episodes", "execute", "batch_size", "processes"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be at least 1")

    def check(self, suite: str) -> None:
        """Raises ValueError, naming the field, for what the suite does not have."""
        offered = registry.SUITES[suite]
        for field, names in {"tasks": offered.tasks, "arms": offered.robots}.items():
            unknown = [name for name in getattr(self, field) if name not in names]
            if unknown:
                raise ValueError(f"{suite}.{field} has {unknown[0]!r}; choose of {', '.join(names)}")
        low, high = offered.image_sizes
        if self.image_size is not None and not low <= self.image_size <= high:
            raise ValueError(f"{suite}.image_size is {self.image_size}; allowed: {low} to {high}")
        if self.wording not in registry.WORDINGS:
            raise ValueError(f"{suite}.wording is {self.wording!r}; choose one of {', '.join(registry.WORDINGS)}")
        try:
            conditions_of(suite, self.conditions)
        except ValueError as error:
            raise ValueError(f"{suite}.{error}") from None


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What `python -m eval` judges; at least one of them."""

    text: TextConfig | None = None
    tabletop: RobotConfig | None = None
    metaworld: RobotConfig | None = None
    ogbench: RobotConfig | None = None
    fetch: RobotConfig | None = None
    aloha: RobotConfig | None = None

    def __post_init__(self):
        if self.text is None and not self.robots:
            raise ValueError("all sections are None; give the one of what is to be judged, such as tabletop")
        for suite, section in self.robots.items():
            section.check(suite)

    @property
    def robots(self) -> dict[str, RobotConfig]:
        """The suites that are given, in order."""
        found = {suite: getattr(self, suite) for suite in registry.SUITES}
        return {suite: section for suite, section in found.items() if section is not None}


@dataclasses.dataclass(frozen=True)
class Config:
    """What evaluation reads of a config; the phases come from their checkpoints."""

    sources: dict[str, SourceConfig]
    evaluate: EvaluateConfig


def completed(config: ConfigDict) -> ConfigDict:
    """A copy of `config` with every default spelled that evaluation reads."""
    return complete(Config, config)
