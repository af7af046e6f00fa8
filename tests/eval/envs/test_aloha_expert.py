"""ALOHA's inverse kinematics and the poses of its experts."""

import itertools

import mujoco
import numpy as np
import pytest

from eval.envs.aloha_expert import DOWN, GRIP, LOW, UPRIGHT, Arm, Pose, transfer

constants = pytest.importorskip("gym_aloha.constants")


@pytest.fixture(scope="module")
def model():
    return mujoco.MjModel.from_xml_path(str(constants.ASSETS_DIR / "bimanual_viperx_transfer_cube.xml"))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("pitch", "roll"), [(DOWN, 0.0), (0.0, UPRIGHT), (0.3, 0.0)])
def test_joint_angles_take_the_gripper_to_the_pose(model, side, pitch, roll):
    arm, place = Arm(model, side), np.array([-0.05 if side == "left" else 0.05, 0.5, 0.2])
    joints = np.array(constants.START_ARM_POSE[:6], float)
    for _ in range(20):
        joints = arm.inverse(place, pitch, roll, joints)
    position, rotation = arm.forward(joints)
    np.testing.assert_allclose(position, place, atol=2e-3)
    inward = 1 if side == "left" else -1
    np.testing.assert_allclose(rotation[:, 0], [inward * np.cos(pitch), 0, -np.sin(pitch)], atol=0.02)
    fingers = rotation[:, 1]  # along the line between them
    np.testing.assert_allclose(abs(fingers[2 if roll else 1]), 1, atol=0.02)


def test_the_gripped_point_is_where_the_fingers_meet(model):
    arm = Arm(model, "left")
    joints = np.array(constants.START_ARM_POSE[:6], float)
    position, rotation = arm.forward(joints)
    data = mujoco.MjData(model)
    data.qpos[:6] = joints
    mujoco.mj_kinematics(model, data)
    np.testing.assert_allclose(position, data.body("vx300s_left/gripper_link").xpos + rotation @ GRIP)


def test_poses_move_with_what_is_to_be_gripped_and_with_what_is_held():
    hand, things = np.array([0.1, 0.5, 0.3]), np.array([[0.12, 0.5, 0.27]])
    to = Pose(0, (0, 0, 0.1), relative="to").numbers(hand, things)
    np.testing.assert_allclose(to[:3], [0.12, 0.5, 0.37])
    held = Pose(0, (0, 0, 0.25), relative="with").numbers(hand, things)
    np.testing.assert_allclose(held[:3], [-0.02, 0, 0.28])  # so that the thing gets to where it is to be
    assert Pose(0, (0, 0, -0.1)).numbers(hand, things)[2] == LOW


def test_the_right_hand_lets_go_after_the_left_has_shut():
    lefts, rights = transfer(np.zeros(3), np.zeros(3))
    shut = max(pose.at for pose, after in itertools.pairwise(lefts) if pose.opening > after.opening)
    opens = [a.at for a, b in itertools.pairwise(rights) if b.opening > a.opening]
    assert opens[-1] > shut
