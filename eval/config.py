"""The `evaluate` section of a config: which phases are judged, by what."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from configs.schema import complete
from data.config import TextConfig as TextSource
from data.robots import EpisodesConfig, PointingConfig
from eval.envs.tabletop import ARMS, TASKS, WORDINGS

CONDITIONS = ("normal", "shuffled_instruction", "blank_image", "untrained")


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
class TabletopConfig:
    """Closed-loop episodes of the policy that phase `policy` ended with.

    episodes: of each task, arm and condition. execute: control steps of each predicted chunk that are carried out
    before the policy looks again. films: episodes of each task and arm that are kept as pictures.
    """

    policy: str
    tasks: tuple[str, ...] = tuple(TASKS)
    arms: tuple[str, ...] = tuple(ARMS)
    conditions: tuple[str, ...] = CONDITIONS
    episodes: int = 50
    execute: int = 4
    wording: str = "test"
    batch_size: int = 64
    films: int = 4

    def __post_init__(self):
        allowed = {"tasks": tuple(TASKS), "arms": tuple(ARMS), "conditions": CONDITIONS}
        for field, names in allowed.items():
            unknown = [name for name in getattr(self, field) if name not in names]
            if unknown or not getattr(self, field):
                raise ValueError(f"{field} is {getattr(self, field)}; choose at least one of {', '.join(names)}")
        if self.wording not in WORDINGS:
            raise ValueError(f"wording is {self.wording!r}; choose one of {', '.join(WORDINGS)}")
        for field in ("episodes", "execute", "batch_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What `python -m eval` judges; at least one of both."""

    text: TextConfig | None = None
    tabletop: TabletopConfig | None = None

    def __post_init__(self):
        if self.text is None and self.tabletop is None:
            raise ValueError("text and tabletop are both None; give the section of what is to be judged")


@dataclasses.dataclass(frozen=True)
class Config:
    """What evaluation reads of a config; the phases come from their checkpoints."""

    sources: dict[str, TextSource | EpisodesConfig | PointingConfig]
    evaluate: EvaluateConfig


def completed(config: ConfigDict) -> ConfigDict:
    """A copy of `config` with every default spelled that evaluation reads."""
    return complete(Config, config)
