"""Scripted experts for ALOHA's two arms: poses of the grippers over time, and the joint angles that take them there."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import mujoco
import numpy as np

GRIP = np.array([0.133, 0.0, 0.008])  # metres from the wrist's last frame to between the fingers, 2 cm from their tips
DAMPING = 0.03
ITERATIONS = 4
OPEN, SHUT = 1.0, 0.0
DOWN = np.radians(60)  # how far the grippers point down where they pick something up
UP = np.radians(-6)  # at the start
UPRIGHT = np.pi / 2  # of the line between the fingers
LOW = 0.02  # metres: any lower, and the tips would touch the table
MEET = np.array([0.0, 0.5, 0.25])  # metres: where the cube changes hands
JOIN = np.array([0.0, 0.5, 0.15])  # metres: where the peg meets the socket


@dataclasses.dataclass(frozen=True)
class Pose:
    """What a gripper does at control step `at`.

    place: metres, in the world, or from where thing `thing` is now ("to"), or where the thing that it holds is to be
    ("with"). pitch, roll: radians down, and about its own axis. opening: 0..1.
    """

    at: int
    place: tuple[float, float, float] | np.ndarray
    pitch: float = DOWN
    roll: float = 0.0
    opening: float = OPEN
    relative: Literal["world", "to", "with"] = "world"
    thing: int = 0

    def numbers(self, hand: np.ndarray, things: np.ndarray) -> np.ndarray:
        """Place in the world, pitch, roll and opening, float[6]."""
        offset = {"world": np.zeros(3), "to": things[self.thing], "with": hand - things[self.thing]}[self.relative]
        place = self.place + offset
        return np.array([*place[:2], max(place[2], LOW), self.pitch, self.roll, self.opening])


def pick(start: np.ndarray, thing: int) -> list[Pose]:
    """Over a thing, down to it, and shut."""
    return [
        Pose(0, start, UP, opening=SHUT),
        Pose(50, (0, 0, 0.1), relative="to", thing=thing),
        Pose(75, (0, 0, 0), relative="to", thing=thing),
        Pose(85, (0, 0, 0), relative="to", thing=thing),
        Pose(100, (0, 0, 0), opening=SHUT, relative="to", thing=thing),
    ]


def transfer(left: np.ndarray, right: np.ndarray) -> tuple[list[Pose], list[Pose]]:
    """The right arm picks the cube up, the left one takes it with one finger above and one below."""
    receive = functools.partial(Pose, place=(0, 0, 0), pitch=0.0, roll=UPRIGHT, relative="to")
    lefts = [
        Pose(0, left, UP, opening=SHUT),
        Pose(100, MEET - np.array([0.15, 0, 0]), 0.0, UPRIGHT),
        Pose(165, MEET - np.array([0.15, 0, 0]), 0.0, UPRIGHT),
        receive(195),
        receive(200),
        receive(215, opening=SHUT),
        Pose(250, MEET, 0.0, UPRIGHT, SHUT),
        Pose(280, MEET - np.array([0.1, 0, 0]), 0.0, UPRIGHT, SHUT),
    ]
    rights = [
        *pick(right, 0),
        Pose(165, MEET, opening=SHUT, relative="with"),
        Pose(220, MEET, opening=SHUT, relative="with"),
        Pose(235, MEET),
        Pose(260, MEET + np.array([0.12, 0, 0.08])),
    ]
    return lefts, rights


def insertion(left: np.ndarray, right: np.ndarray) -> tuple[list[Pose], list[Pose]]:
    """Each arm picks up its part, then they push the peg into the socket."""

    def carry(start: np.ndarray, thing: int, side: float) -> list[Pose]:
        reach = ((165, 0.09), (185, 0.09), (240, 0.048))  # control step, metres from where they meet
        places = [(at, JOIN + np.array([side * apart, 0, 0])) for at, apart in reach]
        held = [Pose(at, place, opening=SHUT, relative="with", thing=thing) for at, place in places]
        return pick(start, thing) + held

    return carry(left, 1, -1.0), carry(right, 0, 1.0)


class Arm:
    """Inverse kinematics of one arm by damped least squares, on a state of its own."""

    def __init__(self, model: mujoco.MjModel, side: str):
        self._model, self._data = model, mujoco.MjData(model)
        first = model.joint(f"vx300s_{side}/waist")
        self.columns = slice(first.dofadr[0], first.dofadr[0] + 6)
        self.joints = slice(first.qposadr[0], first.qposadr[0] + 6)
        self._low, self._high = model.jnt_range[first.id : first.id + 6].T
        self._body = model.body(f"vx300s_{side}/gripper_link").id
        self._facing = np.diag([1.0, 1.0, 1.0] if side == "left" else [-1.0, -1.0, 1.0])
        self._jacobian = np.zeros((6, model.nv))

    def forward(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the point between the fingers is, and the gripper's rotation, at joint angles float[6]."""
        self._data.qpos[self.joints] = joints
        mujoco.mj_kinematics(self._model, self._data)
        rotation = self._data.xmat[self._body].reshape(3, 3).copy()
        return self._data.xpos[self._body] + rotation @ GRIP, rotation

    def inverse(self, place: np.ndarray, pitch: float, roll: float, start: np.ndarray) -> np.ndarray:
        """Joint angles float[6] for a pose, iterated from `start`."""
        wanted, joints = self._facing @ _rotation(pitch, roll), start.copy()
        for _ in range(ITERATIONS):
            position, rotation = self.forward(joints)
            mujoco.mj_comPos(self._model, self._data)
            mujoco.mj_jac(self._model, self._data, self._jacobian[:3], self._jacobian[3:], position, self._body)
            J = self._jacobian[:, self.columns]
            turn = 0.5 * np.cross(rotation.T, wanted.T).sum(axis=0)  # the axis, times the sine of the angle left
            error = np.concatenate([place - position, turn])
            joints = joints + J.T @ np.linalg.solve(J @ J.T + DAMPING**2 * np.eye(6), error)
            joints = np.clip(joints, self._low, self._high)
        return joints


def _rotation(pitch: float, roll: float) -> np.ndarray:
    """Of a gripper that looks along x: down by `pitch` after a turn about its own axis by `roll`."""
    (cp, sp), (cr, sr) = (np.cos(pitch), np.sin(pitch)), (np.cos(roll), np.sin(roll))
    return np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]]) @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])


class Expert:
    """What both arms do: along straight lines from pose to pose, which move with what is to be gripped."""

    def __init__(self, model: mujoco.MjModel, task: str, qpos: np.ndarray):
        self._arms = [Arm(model, side) for side in ("left", "right")]
        self._goals = [qpos[arm.joints].copy() for arm in self._arms]
        starts = [arm.forward(qpos[arm.joints])[0] for arm in self._arms]
        self._poses = {"transfer-cube": transfer, "insertion": insertion}[task](*starts)

    def action(self, t: int, qpos: np.ndarray) -> np.ndarray:
        """float[14] at control step t, from joint angles, fingers and things."""
        things, parts = qpos[16:].reshape(-1, 7)[:, :3], []
        for i, (arm, poses) in enumerate(zip(self._arms, self._poses, strict=True)):
            hand, _ = arm.forward(qpos[arm.joints])
            numbers_P6 = np.stack([pose.numbers(hand, things) for pose in poses])
            times = [pose.at for pose in poses]
            *place, pitch, roll, opening = (np.interp(t, times, column) for column in numbers_P6.T)
            self._goals[i] = arm.inverse(np.array(place), float(pitch), float(roll), self._goals[i])
            parts += [self._goals[i], [opening]]
        return np.concatenate(parts)
