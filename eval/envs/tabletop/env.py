"""The tabletop: one arm, one task, episodes that are a pure function of their seed."""

from __future__ import annotations

import zlib

import mujoco
import numpy as np

from eval.envs.tabletop import expert, language, points
from eval.envs.tabletop.arms import ARMS, FINGER_TRAVEL, opening_to_travel
from eval.envs.tabletop.ik import Kinematics
from eval.envs.tabletop.render import CAMERA, Painter
from eval.envs.tabletop.scene import build_model, place
from eval.envs.tabletop.tasks import TASKS, State

CONTROL_HZ = 10
SUBSTEPS = 10
SCENE_LOW, SCENE_HIGH = np.array([-0.2, -0.2, 0.02]), np.array([0.2, 0.2, 0.22])
START_LOW, START_HIGH = np.array([-0.18, -0.12, 0.14]), np.array([-0.02, 0.12, 0.22])  # fingertip at reset, metres

EVALUATION_SEED = 2**31
"""Seeds below this belong to training data, the others to evaluation: the two never share an episode."""

Observation = dict[str, np.ndarray]


def check_name(kind: str, name: str, allowed) -> None:
    if name not in allowed:
        raise ValueError(f"{kind}={name!r} is not known; choose one of {', '.join(allowed)}")


class Tabletop:
    """A table, an arm and a task; control at 10 Hz by absolute joint targets.

    Actions are float[n+1]: a target in radians for each of the n joints and the gripper opening in 0..1.
    Observations are {"image": uint8[64,64,3], "proprio": float32[n+4]}: joint positions in radians, gripper opening,
    fingertip position in metres. `instruction` holds the sentence of the running episode.
    """

    def __init__(self, arm: str, task: str, wording: str = "train"):
        check_name("arm", arm, ARMS)
        check_name("task", task, TASKS)
        check_name("wording", wording, language.WORDINGS)
        self.arm, self.task, self.wording = arm, task, wording
        self.num_joints = ARMS[arm].num_joints
        self.action_size, self.proprio_size = len(ARMS[arm].action_names), len(ARMS[arm].proprio_names)
        self.max_steps = TASKS[task].max_steps
        self.kinematics = Kinematics(arm)
        self.model = build_model(arm)
        self.data = mujoco.MjData(self.model)
        first = self.model.joint(ARMS[arm].joints[0].name).qposadr[0]
        self._joints = slice(first, first + self.num_joints)
        self._fingers = slice(first + self.num_joints, first + self.num_joints + 2)
        self._tip = self.model.site("tip").id
        self._first_body = self.model.body("object0").id
        self.instruction = ""

    def reset(self, seed: int, anywhere: bool = False) -> Observation:
        """Starts the episode of `seed`; the wording does not change what lies on the table.

        The arm starts behind the objects, or with `anywhere` at any place over the table, as in the midst of a task.
        """
        rng = self._rng(seed, "episode")
        self.layout, self.goal = TASKS[self.task].sample(rng)
        tip = rng.uniform(SCENE_LOW, SCENE_HIGH) if anywhere else rng.uniform(START_LOW, START_HIGH)
        self.instruction = language.instruction(rng, self.wording, self.task, self.layout, self.goal)
        self._set_up(tip, opening=0.0)
        mujoco.mj_forward(self.model, self.data)
        return self.observe()

    def scene(self, seed: int) -> tuple[Observation, list[points.Point]]:
        """A still of the task's objects with the arm anywhere over the table, and where things are in it."""
        rng = self._rng(seed, "scene")
        self.layout, self.goal = TASKS[self.task].sample(rng)
        self._set_up(rng.uniform(SCENE_LOW, SCENE_HIGH), opening=rng.uniform())
        self.instruction = language.instruction(rng, self.wording, self.task, self.layout, self.goal)
        mujoco.mj_kinematics(self.model, self.data)
        return self.observe(), self.points()

    def _rng(self, seed: int, purpose: str) -> np.random.Generator:
        names = zlib.crc32(f"{purpose}/{self.task}/{self.arm}".encode())
        return np.random.default_rng([seed, names])

    def _set_up(self, tip: np.ndarray, opening: float) -> None:
        place(self.model, self.data, self.layout)
        joints = self.kinematics.inverse(tip, self.kinematics.rest, iterations=8)
        self.data.qpos[self._joints] = self.data.ctrl[: self.num_joints] = joints
        self.data.qpos[self._fingers] = self.data.ctrl[self.num_joints :] = opening_to_travel(opening)
        self._painter = Painter(self.model, self.layout)
        self._dwell = 0

    def step(self, action: np.ndarray, render: bool = True) -> tuple[Observation | None, bool]:
        """Acts for 0.1 s; returns the observation (None unless `render`) and whether the task is solved."""
        action = np.asarray(action, np.float64)
        if action.shape != (self.action_size,) or not np.isfinite(action).all():
            raise ValueError(
                f"action={action!r}: {self.arm} takes {self.action_size} finite numbers, {ARMS[self.arm].action_names}"
            )
        n = self.num_joints
        self.data.ctrl[:n] = np.clip(action[:n], self.kinematics.low, self.kinematics.high)
        self.data.ctrl[n:] = opening_to_travel(action[n])
        mujoco.mj_step(self.model, self.data, SUBSTEPS)
        mujoco.mj_kinematics(self.model, self.data)  # a step ends with the poses of before its last substep
        self._dwell = self._dwell + 1 if TASKS[self.task].holds(self.state(), self.layout, self.goal) else 0
        return (self.observe() if render else None), self.success()

    def success(self) -> bool:
        """Whether the goal has held for the task's dwell time up to now."""
        return self._dwell >= TASKS[self.task].dwell

    def state(self) -> State:
        """Fingertip, gripper opening and object centres."""
        objects = self.data.xpos[self._first_body : self._first_body + len(self.layout.objects)]
        return State(self.data.site_xpos[self._tip].copy(), self._opening(), objects.copy())

    def expert_action(self) -> np.ndarray:
        """What the scripted expert does now, float32[n+1]."""
        tip, gripper = expert.expert(self.task, self.state(), self.layout, self.goal)
        joints = self.kinematics.inverse(tip, self.data.qpos[self._joints], iterations=4)
        return np.append(joints, gripper).astype(np.float32)

    def proprio(self) -> np.ndarray:
        """Joint positions, gripper opening, fingertip position: float32[n+4]."""
        parts = (self.data.qpos[self._joints], [self._opening()], self.data.site_xpos[self._tip])
        return np.concatenate(parts).astype(np.float32)

    def observe(self) -> Observation:
        """The present observation."""
        picture, self._shown = self._painter.frame(self.data)
        return {"image": picture, "proprio": self.proprio()}

    def points(self) -> list[points.Point]:
        """Where the objects and zones are in the last picture drawn."""
        return points.points(self.layout, self.state().objects, *self._painter.pixels_in_sight(self._shown))

    def plan(self) -> np.ndarray:
        """Where the object to move is and where it is to go, as y, x, y, x in 0..1000 of the picture: float32[4].

        Both are the same place for tasks without a destination; `sort` plans for the first object not yet in its zone.
        """
        state = self.state()
        start, end = TASKS[self.task].plan(state, self.layout, self.goal)
        image_22, _ = CAMERA.project(np.stack([start, end]))
        return np.clip(1000 * image_22, 0, 1000).astype(np.float32).reshape(4)

    def grounded(self) -> list[points.Point]:
        """The points, and the whole instruction with its plan as a trajectory of two points."""
        pairs = self.plan().round().astype(int).reshape(2, 2).tolist()
        return [*self.points(), {"label": self.instruction, "trajectory": pairs}]

    def _opening(self) -> float:
        return float(self.data.qpos[self._fingers].mean() / FINGER_TRAVEL)
