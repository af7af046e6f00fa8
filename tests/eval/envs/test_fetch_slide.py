"""Fetch's puck: the strength of the blow is tried out, and trying leaves no trace."""

import numpy as np
import pytest

from eval.envs.registry import make

fetch_slide = pytest.importorskip("eval.envs.fetch_slide", exc_type=ImportError)
pytest.importorskip("gymnasium_robotics")


def test_the_puck_is_hit_so_that_it_stops_at_its_goal_and_the_trials_change_nothing():
    tried, untried = (make("fetch", "slide", cameras=()) for _ in range(2))
    tried.reset(1000)
    untried.reset(1000)
    for _ in range(tried.max_steps):
        action = tried.expert()
        tried.step(action)
        untried.step(action)
        np.testing.assert_array_equal(tried._seen["observation"], untried._seen["observation"])
    assert tried.success
    assert untried.success
    end = tried._seen
    assert np.linalg.norm(end["achieved_goal"] - end["desired_goal"]) < 0.05


def test_a_blow_goes_along_the_line_back_onto_it_and_ends_past_the_puck():
    puck, ahead = np.array([1.0, 0.7, 0.4]), np.array([1.0, 0.0, 0.0])
    blow = fetch_slide._strike(puck - 0.2 * ahead + np.array([0, 0.01, 0]), puck, ahead, 0.6)
    np.testing.assert_allclose(blow, [0.6, -0.2, 0, -1])
    np.testing.assert_array_equal(fetch_slide._strike(puck + 0.13 * ahead, puck, ahead, 0.6), [0, 0, 0, -1])


def test_the_hand_goes_around_the_puck_from_above():
    puck, ahead = np.array([1.0, 0.7, 0.4]), np.array([1.0, 0.0, 0.0])
    start = puck - 0.2 * ahead
    in_front = fetch_slide._approach(puck + 0.1 * ahead, puck, start, ahead)
    np.testing.assert_allclose(in_front, [0, 0, 1, -1], atol=1e-9)
    behind = fetch_slide._approach(puck - 0.1 * ahead, puck, start, ahead)
    np.testing.assert_allclose(behind, [-1, 0, 0, -1], atol=1e-9)
