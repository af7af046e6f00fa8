"""The Fetch robot of gymnasium-robotics (arXiv 1802.09464): a seven-joint arm, moved by its hand, at 25 Hz."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from gymnasium_robotics.envs.fetch.pick_and_place import MujocoFetchPickAndPlaceEnv
from gymnasium_robotics.envs.fetch.push import MujocoFetchPushEnv
from gymnasium_robotics.envs.fetch.reach import MujocoFetchReachEnv
from gymnasium_robotics.envs.fetch.slide import MujocoFetchSlideEnv

from eval.envs import fetch_expert
from eval.envs.environment import PLAN_NAMES, plan_of
from eval.envs.fetch_slide import SlideExpert
from eval.envs.rendering import free_camera
from eval.envs.simulation import Simulation
from eval.envs.wordings.fetch import WORDINGS

KINDS = {
    "reach": MujocoFetchReachEnv,
    "push": MujocoFetchPushEnv,
    "slide": MujocoFetchSlideEnv,
    "pick-and-place": MujocoFetchPickAndPlaceEnv,
}
ANGLES = {"front": (145, -35), "side": (235, -25)}  # of the package's own cameras one is inside the gripper
WORKSPACE = (0.95, 0.35, 0.3), 0.8  # metres: its lowest corner and its edges
DIMMED = 0.5  # without shadows the table would be plain white


class Fetch(Simulation):
    """One task of Fetch; block and goal follow from the seed.

    Proprioception: the hand's position and how far each finger is open, in metres. Actions in -1..1: the hand's motion,
    of 5 cm a step along each axis, and whether the fingers open. Success is the package's `is_success`, the block (or
    the hand, for "reach") within 5 cm of the goal, at any step; the package itself looks at the last of its 50 steps.
    Cameras: "front" and "side". The package has no experts; these are our own.
    """

    embodiment = "fetch"
    control_hz = 25.0
    max_steps = 50
    proprio_names: tuple[str, ...] = ("hand_x", "hand_y", "hand_z", "right_finger", "left_finger")
    action_names: tuple[str, ...] = ("hand_x", "hand_y", "hand_z", "gripper")
    plan_names: tuple[str, ...] = PLAN_NAMES

    def __init__(self, task: str, wording: str, cameras: tuple[str, ...], image_size: int):
        super().__init__(task, WORDINGS, wording, cameras, image_size)
        self._env: Any = KINDS[task](reward_type="sparse")
        self._env.model.light_diffuse *= DIMMED
        self._env.model.vis.headlight.diffuse *= DIMMED

    def _start(self, seed: int) -> None:
        self._seen, _ = self._env.reset(seed=seed)
        self._env._render_callback()  # puts the goal's mark in its place
        self._left, self._slide = self.max_steps, SlideExpert(self._env)

    def _advance(self, action: np.ndarray) -> bool:
        self._seen, *_, info = self._env.step(action.astype(np.float32))
        self._left -= 1
        return bool(info["is_success"])

    def expert(self) -> np.ndarray:
        seen, goal = self._seen["observation"], self._seen["desired_goal"]
        hand, block = seen[:3], seen[3:6]
        if self.task == "reach":
            action = fetch_expert.reach(hand, goal)
        elif self.task == "push":
            action = fetch_expert.push(hand, block, goal)
        elif self.task == "slide":
            action = self._slide.action(self._seen, max(self._left, 1))
        else:
            action = fetch_expert.pick_and_place(hand, float(seen[9:11].max()), block, goal)
        return action.astype(np.float32)

    def plan(self) -> np.ndarray:
        seen, goal = self._seen["observation"], self._seen["desired_goal"]
        return plan_of(goal if self.task == "reach" else seen[3:6], goal, *WORKSPACE)

    def _proprio(self) -> np.ndarray:
        seen = self._seen["observation"]
        fingers = seen[3:5] if self.task == "reach" else seen[9:11]
        return np.concatenate([seen[:3], fingers])

    def _world(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        return self._env.model, self._env.data

    def _camera(self, name: str) -> mujoco.MjvCamera:
        azimuth, elevation = ANGLES[name]
        return free_camera((1.32, 0.75, 0.47), 1.35 if self.task == "slide" else 1.0, azimuth, elevation)

    def close(self) -> None:
        super().close()
        self._env.close()
