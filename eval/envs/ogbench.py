"""OGBench's manipulation scenes (arXiv 2410.20092): a UR5e arm and gripper, moved by its hand, at 20 Hz."""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
from ogbench.manipspace.envs.cube_env import CubeEnv
from ogbench.manipspace.envs.scene_env import SceneEnv

from eval.envs.ogbench_expert import Expert
from eval.envs.rendering import fixed_camera
from eval.envs.simulation import Simulation
from eval.envs.wordings.ogbench import WORDINGS

MAX_STEPS = {"cube-single": 200, "cube-double": 500, "scene": 750}  # of the package's own tasks
ONE_GOAL_STEPS = 200
COLOURS = ("red", "blue")  # of the cubes, in their order
LOCKS = {"drawer": 0, "window": 1}  # the button that locks it
ACTION_SPACE = gymnasium.spaces.Box(-np.ones(5, np.float32), np.ones(5, np.float32))


class _Cubes(CubeEnv):
    @property
    def action_space(self):  # the package takes two random actions in `reset`: the same ones in every episode
        ACTION_SPACE.seed(0)
        return ACTION_SPACE


class _Scene(SceneEnv):
    action_space = _Cubes.action_space


class OGBench(Simulation):
    """One goal, or one of the package's own tasks.

    "cube-single", "cube-double" and "scene-cube|button|drawer|window" have one random goal an episode, as when the
    package collects data. "cube-single-task1" and so on are the tasks that it evaluates: goals of several steps from
    nearly fixed starts. Proprioception: joint angles in radians, the hand's position in metres, cosine and sine of its
    turn about the vertical, how far the gripper is closed, and its contact, both 0..1. Actions in -1..1: the hand's
    motion (of 5 cm a step along each axis, of 0.3 radians) and how much further the gripper closes. Success is the
    package's own, at any step.
    """

    embodiment = "ur5e"
    control_hz = 20.0
    proprio_names: tuple[str, ...] = (
        *(f"joint_{i}" for i in range(6)), "hand_x", "hand_y", "hand_z", "cos_yaw", "sin_yaw", "gripper", "contact",
    )  # fmt: skip
    action_names: tuple[str, ...] = ("hand_x", "hand_y", "hand_z", "yaw", "gripper")

    def __init__(self, task: str, wording: str, cameras: tuple[str, ...], image_size: int):
        super().__init__(task, WORDINGS, wording, cameras, image_size)
        scene, _, number = task.partition("-task")
        self._options = {"task_id": int(number)} if number else None
        self._kind = scene.partition("-")[2] if scene.startswith("scene") else "cube"
        scene = "scene" if scene.startswith("scene") else scene
        self.max_steps = MAX_STEPS[scene] if number else ONE_GOAL_STEPS
        mode = "task" if number else "data_collection"
        self._env: Any = (
            _Scene("scene", mode=mode) if scene == "scene" else _Cubes(scene.removeprefix("cube-"), mode=mode)
        )

    def _start(self, seed: int) -> None:
        env = self._env
        env.reset(seed=seed, options=self._options)
        if self._options is None:
            while env._target_task != self._kind or self._done_already():
                env.set_new_target(return_info=False)
            if self._kind in LOCKS:
                env._cur_button_states[LOCKS[self._kind]] = 1
                env._apply_button_states()
        mujoco.mj_forward(env._model, env._data)
        self._expert = Expert(env)

    def _done_already(self) -> bool:
        successes = self._env._compute_successes()
        cubes = successes[0] if isinstance(successes, tuple) else successes
        return self._kind == "cube" and cubes[self._env._target_block]

    def _words(self) -> dict[str, str]:
        env = self._env
        if self._options is not None:
            return {"colour": COLOURS[env._num_cubes - 1]}  # of the one cube that has to move
        if self._kind == "button":
            return {"side": ("left", "right")[env._target_button]}
        if self._kind in LOCKS:
            return {"verb": "open" if getattr(env, f"_target_{self._kind}_pos") else "close"}
        return {"colour": COLOURS[env._target_block]}

    def _advance(self, action: np.ndarray) -> bool:
        *_, info = self._env.step(np.clip(action, -1, 1))
        return bool(info["success"])

    def expert(self) -> np.ndarray:
        return self._expert.action().astype(np.float32)

    def _proprio(self) -> np.ndarray:
        info = self._env.compute_ob_info()
        yaw = info["proprio/effector_yaw"]
        parts = (
            info["proprio/joint_pos"],
            info["proprio/effector_pos"],
            np.cos(yaw),
            np.sin(yaw),
            info["proprio/gripper_opening"],  # the package's name for how far it is closed
            info["proprio/gripper_contact"],
        )
        return np.concatenate(parts)

    def _world(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        return self._env._model, self._env._data

    def _camera(self, name: str) -> mujoco.MjvCamera:
        return fixed_camera(self._env._model, "front_pixels")
