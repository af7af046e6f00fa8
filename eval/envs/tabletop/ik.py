"""Damped least squares: the joint angles that bring the fingertip to a point with the hand pointing straight down."""

from __future__ import annotations

import mujoco
import numpy as np

from eval.envs.tabletop.arms import ARMS, add_arm

DAMPING = 0.02
POSTURE_GAIN = (
    0.5  # share of the way back to the rest posture, per iteration, along motions that leave the hand where it is
)
DOWN = np.diag([-1.0, 1.0, -1.0])  # the hand's axes in the world: z down, fingers open along the world's y axis


class Kinematics:
    """Forward and inverse kinematics of one arm on a model of its own, without objects."""

    def __init__(self, arm: str):
        spec = mujoco.MjSpec()
        add_arm(spec, ARMS[arm])
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.num_joints = ARMS[arm].num_joints
        self.rest = np.array([joint.rest for joint in ARMS[arm].joints])
        self.low, self.high = self.model.jnt_range[: self.num_joints].T.copy()
        self.site = self.model.site("tip").id
        self.jacobian = np.zeros((6, self.model.nv))
        self.damping = DAMPING**2 * np.eye(6)

    def forward(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fingertip position float[3] in metres and hand rotation float[3,3] at joint angles float[n] in radians."""
        self.data.qpos[: self.num_joints] = joints
        mujoco.mj_kinematics(self.model, self.data)
        return self.data.site_xpos[self.site].copy(), self.data.site_xmat[self.site].reshape(3, 3).copy()

    def inverse(self, tip: np.ndarray, start: np.ndarray, iterations: int) -> np.ndarray:
        """Joint angles float[n] for the fingertip at `tip`, float[3] in metres, iterated from `start`, float[n]."""
        joints = np.clip(start, self.low, self.high)
        for _ in range(iterations):
            joints = np.clip(joints + self._step(tip, joints), self.low, self.high)
        return joints

    def _step(self, tip: np.ndarray, joints: np.ndarray) -> np.ndarray:
        position, rotation = self.forward(joints)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_jacSite(self.model, self.data, self.jacobian[:3], self.jacobian[3:], self.site)
        J = self.jacobian[:, : self.num_joints]
        M = DOWN @ rotation.T  # its skew part is the axis times the sine of the angle still to turn
        turn = (0.5 * (M[2, 1] - M[1, 2]), 0.5 * (M[0, 2] - M[2, 0]), 0.5 * (M[1, 0] - M[0, 1]))
        error = np.concatenate([tip - position, turn])
        posture = POSTURE_GAIN * (self.rest - joints)
        return J.T @ np.linalg.solve(J @ J.T + self.damping, error - J @ posture) + posture
