"""An expert for Fetch's puck, whose goal is out of reach: behind the puck, a run-up, one blow of the right strength.

How hard to hit is found by trying it out in the simulator, which is put back as it was.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from eval.envs.fetch_expert import CLOSED, HOVER, STEP, towards

RUN_UP, FOLLOW = 0.2, 0.12  # metres before and past where the puck lay
READY = 0.015  # metres from where the run-up begins
TRIES = 7  # bisections of the strength


class SlideExpert:
    """The blow of one episode of `env`, which takes its observations and steps."""

    def __init__(self, env: Any):
        self._env = env
        self._blow: tuple[np.ndarray, np.ndarray, float] | None = None  # from where, towards where, how hard

    def action(self, seen: dict[str, np.ndarray], steps_left: int) -> np.ndarray:
        """float64[4] for what the environment shows now."""
        hand, puck, goal = seen["observation"][:3], seen["observation"][3:6], seen["desired_goal"]
        if self._blow is None:
            way = np.append((goal - puck)[:2], 0.0)
            ahead = way / np.linalg.norm(way)
            start = puck - RUN_UP * ahead
            if np.linalg.norm(start - hand) > READY:
                return _approach(hand, puck, start, ahead)
            self._blow = puck.copy(), ahead, self._strength(puck.copy(), ahead, float(np.linalg.norm(way)), steps_left)
        return _strike(hand, *self._blow)

    def _strength(self, puck: np.ndarray, ahead: np.ndarray, distance: float, steps: int) -> float:
        """The share of full speed that takes the puck so far, by bisection."""
        model, data = self._env.model, self._env.data
        before = mujoco.MjData(model)
        mujoco.mj_copyData(before, model, data)
        low, high = 0.0, 1.0
        for _ in range(TRIES):
            middle = (low + high) / 2
            hand, end = self._env._get_obs()["observation"][:3], puck
            for _ in range(steps):
                seen, *_ = self._env.step(_strike(hand, puck, ahead, middle).astype(np.float32))
                hand, end = seen["observation"][:3], seen["observation"][3:6]
            low, high = (middle, high) if (end - puck) @ ahead < distance else (low, middle)
            mujoco.mj_copyData(data, model, before)
        return (low + high) / 2


def _approach(hand: np.ndarray, puck: np.ndarray, start: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """To `start`; over the puck where that is in the way."""
    behind = float((hand - puck) @ ahead) < -0.08
    if behind or np.linalg.norm((start - hand)[:2]) < READY:
        return towards(hand, start, CLOSED)
    above = start + np.array([0, 0, HOVER])
    if hand[2] < puck[2] + 0.05:
        above[:2] = hand[:2]
    return towards(hand, above, CLOSED)


def _strike(hand: np.ndarray, puck: np.ndarray, ahead: np.ndarray, strength: float) -> np.ndarray:
    """Along the line through where the puck lay, until past it."""
    offset = hand - puck
    along = float(offset @ ahead)
    if along > FOLLOW:
        return np.array([0, 0, 0, CLOSED])
    aside = np.clip((offset - along * ahead) / STEP, -0.3, 0.3)
    return np.append(strength * ahead / np.abs(ahead).max() - aside, CLOSED)
