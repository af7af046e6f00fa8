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
    plan_names: tuple[str, ...]

    def reset(self, seed: int, anywhere: bool = False) -> None:
        """Begin the episode of `seed`; with `anywhere` the robot is somewhere else by then, as in the midst of it."""
        ...

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

    def plan(self) -> np.ndarray:
        """Where what the robot handles is and where it shall be, in thousandths of the workspace: float32[p].

        What demonstrations may say and robots are not told; float32[0] where `plan_names` is empty.
        """
        ...

    def close(self) -> None: ...


PLAN_NAMES = ("from_x", "from_y", "from_z", "to_x", "to_y", "to_z")


def plan_of(start: np.ndarray, end: np.ndarray, low: tuple[float, ...], size: float) -> np.ndarray:
    """float32[6] in 0..1000: two places in metres, in thousandths of a cube with that lowest corner and edge."""
    places_23 = (np.stack([start, end]) - low) / size
    return np.clip(1000 * places_23, 0, 1000).astype(np.float32).reshape(6)


def checked_action(action: np.ndarray, names: tuple[str, ...], robot: str) -> np.ndarray:
    """`action` as float64[a]. Raises ValueError unless it holds one finite number for each of `names`."""
    action = np.asarray(action, np.float64)
    if action.shape != (len(names),) or not np.isfinite(action).all():
        raise ValueError(f"action={action!r}: {robot} takes {len(names)} finite numbers, {names}")
    return action
