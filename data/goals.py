"""What a robot is told to do: words, pictures of how things shall look, or both."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from data.permutation import key_of, scramble

GOAL = "<reserved_0>"  # the symbol that stands before the pictures of a goal


@dataclasses.dataclass(frozen=True)
class Goal:
    """Goals by hindsight: how an episode looks later on is what it was meant to come to (RoboCat, arXiv 2306.11706).

    kind: what documents show, "language", "image" (a picture from each camera at a later step of the episode, all of
    them equally likely, as Octo does, arXiv 2405.12213) or "both". dropout: share of the documents with both that lack
    one of the two, words as often as pictures, so that either will do when acting.
    """

    kind: Literal["language", "image", "both"] = "language"
    dropout: float = 0.0

    def __post_init__(self):
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"goal_dropout is {self.dropout}; it must be a share in [0, 1]")
        if self.dropout and self.kind != "both":
            raise ValueError(f"goal_dropout is {self.dropout}, but goal is {self.kind!r}; it takes goal 'both'")

    def shown(self, row_N: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Whether the documents of these frames show words and pictures, bool[N] each; the same in every epoch."""
        if self.kind != "both":
            words = np.full(len(row_N), self.kind == "language")
            return words, ~words
        drawn_N = _uniform(row_N, key_of(seed, "goal", "shown"))
        return drawn_N >= self.dropout / 2, (drawn_N < self.dropout / 2) | (drawn_N >= self.dropout)


def later_step(step: int, length: int, *place: int | str) -> int:
    """One of the steps after `step`, all equally likely, or the last one itself; a function of `place`."""
    after = length - 1 - step
    drawn = _uniform(np.zeros(1), key_of("goal", "step", *place))[0]
    return step + min(1 + int(drawn * after), after)


def _uniform(x_N: np.ndarray, key: int) -> np.ndarray:
    """float64[N] in [0, 1)."""
    return (scramble(x_N, key) >> np.uint64(11)) / 2.0**53
