"""What is drawn for one prompt, and what an objective makes of it."""

from __future__ import annotations

import dataclasses

import numpy as np

from data.elements import Document
from data.problems import Problem


@dataclasses.dataclass(frozen=True)
class Sample:
    """An answer that a model drew.

    ids: int32[n], end-of-text included. logprobs: float32[n], of the model that drew it, at temperature 1, over text
    tokens. ended: whether it ended by itself, not by its limit. reward and rewards: see `train.rewards`.
    anchor_logprob: of the whole answer, under the moving average of the policy, where it was asked for.
    """

    ids: np.ndarray
    logprobs: np.ndarray
    text: str
    ended: bool
    reward: float = 0.0
    rewards: dict[str, float] = dataclasses.field(default_factory=dict)
    anchor_logprob: float = 0.0

    @property
    def logprob(self) -> float:
        """Of the whole answer."""
        return float(self.logprobs.sum(dtype=float))


@dataclasses.dataclass(frozen=True)
class Group:
    """A prompt with what the policy wrote, and what the moving average of the policy (the anchor) wrote."""

    prompt: Document
    problem: Problem
    policy: tuple[Sample, ...]
    anchor: tuple[Sample, ...] = ()


@dataclasses.dataclass(frozen=True)
class Draws:
    """What an objective wants for each prompt: samples of the policy and of the anchor, and whether the anchor scores
    the policy's samples."""

    policy: int
    anchor: int = 0
    scored: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """A sample to learn from. coefficient: how much it is to become more likely (below 0: less likely)."""

    sample: Sample
    coefficient: float
    of_policy: bool = True
