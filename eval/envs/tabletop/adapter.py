"""The tabletop as an `Environment`."""

from __future__ import annotations

import numpy as np

from eval.envs.environment import PLAN_NAMES, Sight, plan_of
from eval.envs.tabletop.arms import ARMS
from eval.envs.tabletop.env import CONTROL_HZ, Tabletop
from eval.envs.tabletop.shifts import Shift
from eval.envs.tabletop.tasks import TASKS

WORKSPACE = (-0.4, -0.4, 0.0), 0.8  # metres: its lowest corner and its edges


class TabletopEnvironment:
    """One arm at one task of the tabletop; success is that of `Tabletop`, once held for its dwell time, for good."""

    control_hz = float(CONTROL_HZ)
    cameras: tuple[str, ...] = ("front",)
    plan_names: tuple[str, ...] = PLAN_NAMES

    def __init__(self, task: str, arm: str, wording: str = "train", shift: Shift | None = None):
        self.world = Tabletop(arm, task, wording, shift)
        self.embodiment, self.task, self.max_steps = arm, task, self.world.max_steps
        self.proprio_names, self.action_names = ARMS[arm].proprio_names, ARMS[arm].action_names
        self._success = False

    def reset(self, seed: int, anywhere: bool = False) -> None:
        self.world.reset(seed, anywhere)
        self._success = False

    @property
    def instruction(self) -> str:
        return self.world.instruction

    def observe(self) -> Sight:
        seen = self.world.observe()
        return Sight({"front": seen["image"]}, seen["proprio"])

    def step(self, action: np.ndarray) -> None:
        _, solved = self.world.step(action, render=False)
        self._success |= solved

    @property
    def success(self) -> bool:
        return self._success

    def expert(self) -> np.ndarray:
        return self.world.expert_action()

    def plan(self) -> np.ndarray:
        world = self.world
        return plan_of(*TASKS[self.task].plan(world.state(), world.layout, world.goal), *WORKSPACE)

    def close(self) -> None:
        """Nothing to free: its pictures need no OpenGL."""
