"""The tabletop: one arm, one task, episodes that are a pure function of their seed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import mujoco
import numpy as np

from eval.envs.environment import checked_action
from eval.envs.shifted import misspell
from eval.envs.tabletop import expert, language, points
from eval.envs.tabletop.arms import ARMS, FINGER_TRAVEL, opening_to_travel, weaken
from eval.envs.tabletop.ik import Kinematics
from eval.envs.tabletop.render import LOOK, Look, Painter
from eval.envs.tabletop.scene import COLOURS, NUM_OBJECTS, add_weight, build_model, place
from eval.envs.tabletop.shifts import EXTRA_COLOURS, START_ABOVE_HIGH, START_ABOVE_LOW, Shift
from eval.envs.tabletop.tasks import TASKS, State

CONTROL_HZ = 10
PHYSICS_HZ = 100
LAG = 0.06  # seconds by which joints trail their targets: the expert at other rates aims as far ahead
SCENE_LOW, SCENE_HIGH = np.array([-0.2, -0.2, 0.02]), np.array([0.2, 0.2, 0.22])
START_LOW, START_HIGH = np.array([-0.18, -0.12, 0.14]), np.array([-0.02, 0.12, 0.22])  # fingertip at reset, metres

Observation = dict[str, np.ndarray]


def check_name(kind: str, name: str, allowed) -> None:
    if name not in allowed:
        raise ValueError(f"{kind}={name!r} is not known; choose one of {', '.join(allowed)}")


class Tabletop:
    """A table, an arm and a task; control by absolute joint targets, at 10 Hz or another divisor of 100.

    Actions are float[n+1]: a target in radians for each of the n joints and the gripper opening in 0..1.
    Observations are {"image": uint8[64,64,3], "proprio": float32[n+4]}: joint positions in radians, gripper opening,
    fingertip position in metres. `instruction` holds the sentence of the running episode. `shift` is what differs from
    the episodes of training.
    """

    def __init__(
        self,
        arm: str,
        task: str,
        wording: str = "train",
        shift: Shift | None = None,
        control_hz: int = CONTROL_HZ,
    ):
        check_name("arm", arm, ARMS)
        check_name("task", task, TASKS)
        check_name("wording", wording, language.WORDINGS)
        if control_hz < CONTROL_HZ or PHYSICS_HZ % control_hz:
            raise ValueError(f"control_hz={control_hz!r}: choose a divisor of {PHYSICS_HZ}, {CONTROL_HZ} at least")
        self.control_hz, self._rate = control_hz, control_hz / CONTROL_HZ
        self.arm, self.task, self.shift = arm, task, shift
        self.wording = shift.wording if shift and shift.wording else wording
        self.num_joints = ARMS[arm].num_joints
        self.action_size, self.proprio_size = len(ARMS[arm].action_names), len(ARMS[arm].proprio_names)
        self.max_steps = round(TASKS[task].max_steps * self._rate)
        self.kinematics = Kinematics(arm)
        self.model = build_model(arm, NUM_OBJECTS + (shift.distractors if shift else 0))
        if shift and shift.lag:
            weaken(self.model, arm, 1 - shift.lag)
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
        rng, own, shift = self._rng(seed, "episode"), self._rng(seed, "shift"), self.shift
        self.layout, self.goal = shift.sample(TASKS[self.task], rng) if shift else TASKS[self.task].sample(rng)
        tip = rng.uniform(SCENE_LOW, SCENE_HIGH) if anywhere else rng.uniform(START_LOW, START_HIGH)
        self.instruction = language.instruction(rng, self.wording, self.task, self.layout, self.goal)
        if shift is None:
            self._set_up(tip, opening=0.0)
        else:
            tip = own.uniform(START_ABOVE_LOW, START_ABOVE_HIGH) if shift.start else tip
            self.instruction = misspell(self.instruction, shift.typos, own)
            self.layout = shift.distract(self.layout, self.goal, own)
            self._set_up(tip, float(shift.start), shift.look(own), {**EXTRA_COLOURS, **shift.colours(own)})
            add_weight(self.model, 1 + shift.weight)
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

    def _set_up(
        self,
        tip: np.ndarray,
        opening: float,
        look: Look = LOOK,
        colours: Mapping[str, tuple[float, ...]] = COLOURS,
    ) -> None:
        place(self.model, self.data, self.layout, colours)
        joints = self.kinematics.inverse(tip, self.kinematics.rest, iterations=8)
        self.data.qpos[self._joints] = self.data.ctrl[: self.num_joints] = joints
        self.data.qpos[self._fingers] = self.data.ctrl[self.num_joints :] = opening_to_travel(opening)
        self._painter = Painter(self.model, self.layout, look, colours)
        self._dwell = 0

    def step(self, action: np.ndarray, render: bool = True) -> tuple[Observation | None, bool]:
        """Acts for one control step; returns the observation (None unless `render`) and whether the task is solved."""
        action = checked_action(action, ARMS[self.arm].action_names, self.arm)
        n = self.num_joints
        self.data.ctrl[:n] = np.clip(action[:n], self.kinematics.low, self.kinematics.high)
        self.data.ctrl[n:] = opening_to_travel(action[n])
        mujoco.mj_step(self.model, self.data, PHYSICS_HZ // self.control_hz)
        mujoco.mj_kinematics(self.model, self.data)  # a step ends with the poses of before its last substep
        self._dwell = self._dwell + 1 if TASKS[self.task].holds(self.state(), self.layout, self.goal) else 0
        return (self.observe() if render else None), self.success()

    def success(self) -> bool:
        """Whether the goal has held for the task's dwell time up to now."""
        return self._dwell >= TASKS[self.task].dwell * self._rate

    def state(self) -> State:
        """Fingertip, gripper opening and object centres."""
        objects = self.data.xpos[self._first_body : self._first_body + len(self.layout.objects)]
        return State(self.data.site_xpos[self._tip].copy(), self._opening(), objects.copy())

    def expert_action(self) -> np.ndarray:
        """What the scripted expert does now, float32[n+1]."""
        state = self.state()
        tip, gripper = expert.expert(self.task, state, self.layout, self.goal)
        tip = state.tip + (tip - state.tip) * (1 / self.control_hz + LAG) / (1 / CONTROL_HZ + LAG)
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
        seen = self._painter.pixels_in_sight(self._shown)
        return points.points(self._painter.look.camera, self.layout, self.state().objects, *seen)

    def plan(self) -> np.ndarray:
        """Where the object to move is and where it is to go, as y, x, y, x in 0..1000 of the picture: float32[4].

        Both are the same place for tasks without a destination; `sort` plans for the first object not yet in its zone.
        """
        state = self.state()
        start, end = TASKS[self.task].plan(state, self.layout, self.goal)
        image_22, _ = self._painter.look.camera.project(np.stack([start, end]))
        return np.clip(1000 * image_22, 0, 1000).astype(np.float32).reshape(4)

    def grounded(self) -> list[points.Point]:
        """The points, and the whole instruction with its plan as a trajectory of two points."""
        pairs = self.plan().round().astype(int).reshape(2, 2).tolist()
        return [*self.points(), {"label": self.instruction, "trajectory": pairs}]

    def _opening(self) -> float:
        return float(self.data.qpos[self._fingers].mean() / FINGER_TRAVEL)
