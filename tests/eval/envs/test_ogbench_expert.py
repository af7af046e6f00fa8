"""Which goal comes next in OGBench's tasks of several steps."""

import numpy as np
import pytest

from eval.envs.registry import make

ogbench_expert = pytest.importorskip("eval.envs.ogbench_expert", exc_type=ImportError)


@pytest.fixture(scope="module")
def made():
    envs = {}

    def world(task):
        envs[task] = envs.get(task) or make("ogbench", task, cameras=())
        envs[task].reset(0)
        return envs[task]._env

    return world


def first(env) -> tuple[str, int]:
    goal = next(ogbench_expert.goals(env))
    return goal.kind, goal.index


def test_a_locked_drawer_is_unlocked_before_it_is_closed_and_locked_again(made):
    env = made("scene-task2")
    assert first(env) == ("button", 0)
    env._cur_button_states[0] = 1
    assert first(env) == ("drawer", 0)
    env._data.joint("drawer_slide").qpos[0] = env._target_drawer_pos
    assert first(env) == ("button", 1)
    env._cur_button_states[1] = 1
    assert first(env) == ("window", 0)
    env._data.joint("window_slide").qpos[0] = env._target_window_pos
    assert [(g.kind, g.index) for g in ogbench_expert.goals(env)] == [("button", 0), ("button", 1)]
    env._cur_button_states[:] = 0
    assert list(ogbench_expert.goals(env)) == []


def test_a_cube_that_belongs_in_the_drawer_waits_until_that_is_open(made):
    env = made("scene-task4")
    assert first(env) == ("button", 0)
    env._cur_button_states[0] = 1
    goal = next(ogbench_expert.goals(env))
    assert (goal.kind, goal.target) == ("drawer", -0.16)
    env._data.joint("drawer_slide").qpos[0] = -0.16
    goal = next(ogbench_expert.goals(env))
    assert goal.kind == "cube"
    np.testing.assert_array_equal(goal.target, env._drawer_center)


def test_of_two_cubes_in_each_others_places_one_is_put_aside(made):
    env = made("cube-double-task4")
    goal = next(ogbench_expert.goals(env))
    assert goal.kind == "cube"
    assert any(np.array_equal(goal.target, spare) for spare in ogbench_expert.SPARE)


def test_a_stack_is_built_from_below(made):
    env = made("cube-double-task5")
    places = [goal.target[2] for goal in ogbench_expert.goals(env)]
    assert places[0] < places[1]
