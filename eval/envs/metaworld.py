"""Meta-World's 50 tasks (arXiv 1910.10897, version 3 of the package): a Sawyer arm, moved by its hand, at 80 Hz."""

from __future__ import annotations

import pickle
import warnings
import zlib

import metaworld
import mujoco
import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from eval.envs.environment import PLAN_NAMES, plan_of
from eval.envs.rendering import fixed_camera, free_camera
from eval.envs.simulation import Simulation
from eval.envs.wordings.metaworld import WORDINGS

FRONT = free_camera((0.0, 0.72, 0.2), distance=1.15, azimuth=140, elevation=-32)
LEFT = free_camera((0.0, 0.72, 0.2), distance=1.15, azimuth=40, elevation=-32)
WORKSPACE = (-0.4, 0.3, 0.0), 0.8  # metres: its lowest corner and its edges


class MetaWorld(Simulation):
    """One task of Meta-World; object and goal positions follow from the seed.

    Proprioception: the hand's position in metres and how far the gripper is open, 0..1. Actions: the hand's velocity
    in -1..1 of 1 cm a step along each axis, and the effort that closes the gripper. Cameras: "front", "left" and
    "wrist"; two sides tell how high a goal floats. Success is the package's own, at any step. The expert is the one
    that the package ships for the task; it sees what the robot does not, the exact place of everything. A plan has the
    two places that it reads, of the thing and of the goal.
    """

    embodiment = "sawyer"
    control_hz = 80.0
    max_steps = 500
    proprio_names: tuple[str, ...] = ("hand_x", "hand_y", "hand_z", "gripper")
    action_names: tuple[str, ...] = ("hand_x", "hand_y", "hand_z", "gripper")
    plan_names: tuple[str, ...] = PLAN_NAMES

    def __init__(self, task: str, wording: str, cameras: tuple[str, ...], image_size: int):
        super().__init__(task, WORDINGS, wording, cameras, image_size)
        kind = metaworld.ALL_V3_ENVIRONMENTS[task]
        self._env = kind()
        # The goal stands in what the expert reads only if a task's data says so.
        data = {"env_cls": kind, "rand_vec": None, "partially_observable": False}
        self._env.set_task(metaworld.Task(env_name=task, data=pickle.dumps(data)))
        self._env.seeded_rand_vec, self._env._freeze_rand_vec = True, False

    def _start(self, seed: int) -> None:
        self._env.seed(zlib.crc32(f"{self.task}/{seed}".encode()))  # tasks with like ranges do not share places
        self._seen, _ = self._env.reset()
        self._script = ENV_POLICY_MAP[self.task]()

    def _wander(self, seed: int) -> None:
        super()._wander(seed)
        self._env.curr_path_length = 0  # the package ends episodes after 500 steps

    def _advance(self, action: np.ndarray) -> bool:
        self._seen, _, _, _, info = self._env.step(np.clip(action, -1, 1).astype(np.float32))
        return bool(info["success"])

    def expert(self) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that gains ask for more than the limit, which the next line keeps
            # A copy: some scripts write into what they read.
            return np.clip(self._script.get_action(self._seen.copy()), -1, 1).astype(np.float32)

    def plan(self) -> np.ndarray:
        return plan_of(self._seen[4:7], self._seen[36:39], *WORKSPACE)

    def _proprio(self) -> np.ndarray:
        return self._seen[:4]

    def _world(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        # Some marks are left where the model has them by a step, and one is put to where the object was.
        for name, place in self._env._target_site_config:
            self._env.data.site(name).xpos = self._env._target_pos if name == "goal" else place[:3]
        return self._env.model, self._env.data

    def _camera(self, name: str) -> mujoco.MjvCamera:
        free = {"front": FRONT, "left": LEFT}
        return free[name] if name in free else fixed_camera(self._env.model, "gripperPOV")

    def close(self) -> None:
        super().close()
        self._env.close()
