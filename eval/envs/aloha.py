"""ALOHA's two six-joint arms (arXiv 2304.13705, package gym-aloha) at 50 Hz by absolute joint targets."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from dm_control import mujoco as control_mujoco
from dm_control.rl import control
from gym_aloha.constants import ACTIONS, ASSETS_DIR, DT, JOINTS
from gym_aloha.tasks import sim
from gym_aloha.utils import sample_box_pose, sample_insertion_pose

from eval.envs.aloha_expert import Expert
from eval.envs.rendering import free_camera
from eval.envs.simulation import Simulation
from eval.envs.wordings.aloha import WORDINGS

VIEWS = {  # closer than the package's, which are for pictures wider than high
    "top": free_camera((0.0, 0.5, 0.05), distance=1.0, azimuth=90, elevation=-90),
    "front": free_camera((0.0, 0.5, 0.13), distance=0.85, azimuth=90, elevation=-25),
}
SOLVED = 4  # the reward of a task that is done
SETTLE = 15  # control steps in which what lies above the table falls onto it


class _Blind:
    """Leaves out the three large pictures that the package draws at every step."""

    def get_observation(self, physics: Any) -> dict[str, np.ndarray]:
        return {"qpos": sim.BimanualViperXTask.get_qpos(physics)}


class _Transfer(_Blind, sim.TransferCubeTask): ...


class _Insertion(_Blind, sim.InsertionTask): ...


class Aloha(Simulation):
    """Handing a cube over, or putting a peg into a socket; where they lie follows from the seed.

    Proprioception and actions: joint angles in radians and gripper openings, 0..1, of the left and the right arm.
    Success is the package's highest reward, at any step. Cameras: "top" and "front". The package has no experts for
    joint targets; these are our own.
    """

    embodiment = "aloha"
    control_hz = 1 / DT
    max_steps = 300
    proprio_names, action_names = tuple(JOINTS), tuple(ACTIONS)

    def __init__(self, task: str, wording: str, cameras: tuple[str, ...], image_size: int):
        super().__init__(task, WORDINGS, wording, cameras, image_size)
        kind, file = {"transfer-cube": (_Transfer, "transfer_cube"), "insertion": (_Insertion, "insertion")}[task]
        physics = control_mujoco.Physics.from_xml_path(str(ASSETS_DIR / f"bimanual_viperx_{file}.xml"))
        self._env = control.Environment(physics, kind(), float("inf"), control_timestep=DT)

    def _start(self, seed: int) -> None:
        pose = sample_box_pose(seed) if self.task == "transfer-cube" else np.concatenate(sample_insertion_pose(seed))
        poses: list = sim.BOX_POSE
        poses[0] = pose  # the package's way to say where things lie
        self._seen = self._env.reset().observation["qpos"]
        self._time, self._expert, self._blown = 0, None, False

    def _wander(self, seed: int) -> None:
        raise ValueError("anywhere: ALOHA's arms start side by side, where its expert begins; leave it out")

    def _advance(self, action: np.ndarray) -> bool:
        if self._blown:
            return False
        try:
            step = self._env.step(action)
        except control.PhysicsError:  # two stiff arms in each other's way: nothing more can come of the episode
            self._blown = True
            return False
        self._seen, self._time = step.observation["qpos"], self._time + 1
        return step.reward == SOLVED

    def expert(self) -> np.ndarray:
        if self._time < SETTLE:
            return self._seen.astype(np.float32)
        model, data = self._world()
        self._expert = self._expert or Expert(model, self.task, data.qpos)
        return self._expert.action(self._time - SETTLE, data.qpos).astype(np.float32)

    def _proprio(self) -> np.ndarray:
        return self._seen

    def _world(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        physics: Any = self._env.physics
        return physics.model.ptr, physics.data.ptr

    def _camera(self, name: str) -> mujoco.MjvCamera:
        return VIEWS[name]
