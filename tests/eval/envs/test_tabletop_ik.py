"""Damped least squares against forward kinematics."""

import numpy as np
import pytest

from eval.envs.tabletop import ARMS
from eval.envs.tabletop.ik import Kinematics

DOWN = np.diag([-1.0, 1.0, -1.0])


def _targets(count):
    return np.random.default_rng(0).uniform((-0.25, -0.25, 0.01), (0.25, 0.25, 0.2), (count, 3))


@pytest.mark.parametrize("arm", ARMS)
def test_the_whole_workspace_is_reached_pointing_down(arm):
    kinematics = Kinematics(arm)
    for target in _targets(40):
        tip, rotation = kinematics.forward(kinematics.inverse(target, kinematics.rest, 30))
        assert np.abs(tip - target).max() < 3e-3
        assert np.abs(rotation - DOWN).max() < 0.02


@pytest.mark.parametrize("arm", ARMS)
def test_one_fingertip_position_has_one_posture(arm):
    kinematics, rng = Kinematics(arm), np.random.default_rng(1)
    for target in _targets(20):
        postures = [
            kinematics.inverse(target, kinematics.rest + rng.normal(0, 0.15, kinematics.num_joints), 40)
            for _ in range(3)
        ]
        assert np.ptp(postures, axis=0).max() < 0.02


@pytest.mark.parametrize("arm", ARMS)
def test_postures_change_smoothly_with_the_target(arm):
    kinematics = Kinematics(arm)
    targets = np.linspace((-0.2, -0.2, 0.03), (0.2, 0.15, 0.1), 60)
    postures = np.array([kinematics.inverse(target, kinematics.rest, 40) for target in targets])
    steps, second = np.abs(np.diff(postures, axis=0)), np.abs(np.diff(postures, 2, axis=0))
    assert steps.max() < 0.1
    assert second.max() < 0.02
