"""What every simulated robot offers to recording and evaluation, whichever package it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import numpy as np

EVALUATION_SEED = 2**31
"""Seeds below this belong to training data, the others to evaluation: the two never share an episode."""


@dataclasses.dataclass(frozen=True)
class Sight:
    """What a robot sees and feels: uint8[H,W,3] upright by camera, float32[a] in the robot's units."""

    images: Mapping[str, np.ndarray]
    proprio: np.ndarray


class Environment(Protocol):
    """One robot at one task; all that happens follows from the seed and the actions.

    `step` does not render, as pictures cost more than physics; `observe` does.
    """

    embodiment: str
    task: str
    control_hz: float
    max_steps: int
    cameras: tuple[str, ...]
    proprio_names: tuple[str, ...]
    action_names: tuple[str, ...]

    def reset(self, seed: int) -> None: ...

    @property
    def instruction(self) -> str:
        """What the robot is told, fixed from `reset` on."""
        ...

    def observe(self) -> Sight: ...

    def step(self, action: np.ndarray) -> None:
        """Carry out float32[a] for one control step. Raises ValueError unless it is `a` finite numbers."""
        ...

    @property
    def success(self) -> bool:
        """Whether the task has been done since `reset`."""
        ...

    def expert(self) -> np.ndarray:
        """What a scripted expert would do now, float32[a]."""
        ...

    def close(self) -> None: ...


def checked_action(action: np.ndarray, names: tuple[str, ...], robot: str) -> np.ndarray:
    """`action` as float64[a]. Raises ValueError unless it holds one finite number for each of `names`."""
    action = np.asarray(action, np.float64)
    if action.shape != (len(names),) or not np.isfinite(action).all():
        raise ValueError(f"action={action!r}: {robot} takes {len(names)} finite numbers, {names}")
    return action
