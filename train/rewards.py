"""Rewards that can be verified: the number that answers the question, the form of the answer, its length."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

from data.answers import last_number, number_after_marks
from data.problems import Problem
from train.rollout.samples import Sample


@dataclasses.dataclass(frozen=True)
class NumberReward:
    """1 where the answer's number is exactly the problem's, else 0; 0 too for an answer that was cut off.

    where: "last" takes the last number in the text, "marks" the first after ####.
    """

    kind: Literal["number"] = "number"
    weight: float = 1.0
    where: Literal["last", "marks"] = "last"

    def __call__(self, problem: Problem, sample: Sample) -> float:
        found = (last_number if self.where == "last" else number_after_marks)(sample.text)
        return float(sample.ended and found == problem.answer)


@dataclasses.dataclass(frozen=True)
class FormatReward:
    """1 where the regular expression `pattern` matches the whole text, else 0."""

    pattern: str
    kind: Literal["format"] = "format"
    weight: float = 1.0

    def __post_init__(self):
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern is {self.pattern!r}, no regular expression: {error}; correct it") from None

    def __call__(self, problem: Problem, sample: Sample) -> float:
        del problem
        return float(re.fullmatch(self.pattern, sample.text, re.DOTALL) is not None)


@dataclasses.dataclass(frozen=True)
class LengthReward:
    """0 up to `limit` tokens, down by 1 over the next `margin`, never below -1 (DAPO, arXiv 2503.14476, eq. 13)."""

    limit: int
    margin: int
    kind: Literal["length"] = "length"
    weight: float = 1.0

    def __post_init__(self):
        for field in ("limit", "margin"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be at least 1 token")

    def __call__(self, problem: Problem, sample: Sample) -> float:
        del problem
        return max(min(0.0, (self.limit - len(sample.ids)) / self.margin), -1.0)


RewardConfig = NumberReward | FormatReward | LengthReward


def rewarded(rewards: Mapping[str, RewardConfig], problem: Problem, sample: Sample) -> Sample:
    """The sample with each reward by name, and their sum, each times its weight."""
    parts = {name: reward(problem, sample) for name, reward in rewards.items()}
    total = sum(rewards[name].weight * value for name, value in parts.items())
    return dataclasses.replace(sample, reward=total, rewards=parts)
