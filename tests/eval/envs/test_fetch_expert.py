"""Fetch's scripted experts, which read nothing but positions."""

import numpy as np
import pytest

from eval.envs.fetch_expert import CLOSED, OPEN, pick_and_place, push, reach, towards

HAND, BLOCK, GOAL = np.array([1.3, 0.7, 0.6]), np.array([1.4, 0.8, 0.425]), np.array([1.2, 0.6, 0.425])


def beside(place: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    return place + np.array([x, y, z])


def test_a_step_goes_straight_and_is_no_longer_than_allowed():
    action = towards(HAND, beside(HAND, 0.5, 0.25, 0), OPEN)
    np.testing.assert_allclose(action, [1, 0.5, 0, OPEN])
    np.testing.assert_allclose(towards(HAND, beside(HAND, 0.01, 0, 0), CLOSED)[:3], [0.16, 0, 0])
    np.testing.assert_array_equal(reach(HAND, HAND), [0, 0, 0, CLOSED])


def test_picking_up_goes_over_the_block_then_down_then_shuts_then_carries():
    far = pick_and_place(HAND, 0.05, BLOCK, GOAL)
    np.testing.assert_allclose(far[:2] / far[0], [1, 1])
    assert far[3] == OPEN
    above = pick_and_place(beside(BLOCK, 0.005, 0, 0.1), 0.05, BLOCK, GOAL)
    assert above[2] < -0.5
    inside = pick_and_place(beside(BLOCK, 0.005, 0, 0), 0.05, BLOCK, GOAL)
    np.testing.assert_array_equal(inside, [0, 0, 0, CLOSED])
    gripped = pick_and_place(BLOCK, 0.025, BLOCK, GOAL)
    np.testing.assert_allclose(gripped, [-1, -1, 0, CLOSED], atol=1e-9)


def test_pushing_goes_behind_the_block_from_above_and_along_the_line_to_the_goal():
    ahead = np.array([-1, -1, 0]) / np.sqrt(2)
    over = push(HAND, BLOCK, GOAL)
    assert over[0] > 0.5
    assert over[1] > 0.5  # to the far side of the block
    low = push(beside(BLOCK, 0.0, -0.09, 0.0), BLOCK, GOAL)
    np.testing.assert_allclose(low[:2], 0, atol=1e-9)
    assert low[2] > 0.5  # up, so that the block is not swept along
    forward = push(BLOCK - 0.08 * ahead, BLOCK, GOAL)
    assert forward[:3] @ ahead > 0.5
    np.testing.assert_allclose(forward[0], forward[1])


@pytest.mark.parametrize("hand", [HAND, BLOCK])
def test_a_block_at_its_goal_is_left_alone(hand):
    np.testing.assert_array_equal(push(hand, BLOCK, beside(BLOCK, 0.01, 0, 0)), [0, 0, 0, CLOSED])
