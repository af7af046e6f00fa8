"""The scripted expert solves every task, remembers nothing and recovers from disturbances."""

import mujoco
import numpy as np
import pytest

from eval.envs.tabletop import ARMS, EVALUATION_SEED, TASKS, Tabletop, demonstrate
from eval.envs.tabletop.expert import SPEED

EACH = [(task, arm) for task in TASKS for arm in ARMS]


def _successes(arm, task, seeds, noise=0.0):
    env, solved = Tabletop(arm, task), 0
    for seed in seeds:
        rng, push = np.random.default_rng(seed), np.zeros(env.action_size)
        env.reset(seed)
        for _ in range(env.max_steps):
            push[:-1] = 0.8 * push[:-1] + 0.6 * rng.normal(0, noise, env.num_joints)
            _, done = env.step(env.expert_action() + push, render=False)
            if done:
                solved += 1
                break
    return solved


@pytest.mark.parametrize(("task", "arm"), EACH)
def test_it_solves_unseen_episodes(task, arm):
    assert _successes(arm, task, range(EVALUATION_SEED, EVALUATION_SEED + 4)) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("task", "arm"), EACH)
def test_it_solves_95_of_100_unseen_episodes(task, arm):
    assert _successes(arm, task, range(EVALUATION_SEED, EVALUATION_SEED + 100)) >= 95


@pytest.mark.parametrize("task", ["reach", "push", "lift"])
def test_it_recovers_from_disturbances(task):
    assert _successes("arm6", task, range(6), noise=0.015) >= 5


@pytest.mark.parametrize("task", TASKS)
def test_its_action_is_a_function_of_the_present_positions(task):
    """Positions copied into a world without a past ask for the same action."""
    env, other = Tabletop("arm6", task), Tabletop("arm6", task)
    env.reset(21)
    for _ in range(12):
        env.step(env.expert_action(), render=False)
    other.reset(21)
    other.data.qpos[:] = env.data.qpos
    mujoco.mj_kinematics(other.model, other.data)
    np.testing.assert_allclose(other.expert_action(), env.expert_action(), atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_the_fingertip_moves_in_small_steps(task):
    env = Tabletop("arm7", task)
    for seed in range(3):
        env.reset(seed)
        tips = [env.state().tip]
        for _ in range(25):
            _, done = env.step(env.expert_action(), render=False)
            tips.append(env.state().tip)
            if done:
                break
        assert np.linalg.norm(np.diff(tips, axis=0), axis=1).max() < 1.2 * SPEED


def test_a_demonstration_records_what_the_expert_meant_and_not_the_disturbance():
    env, replay = Tabletop("arm5", "reach"), Tabletop("arm5", "reach")
    episode = demonstrate(env, 3, noise=0.05)
    length = len(episode.actions)
    assert length == len(episode.images) == len(episode.proprio) == len(episode.points)
    observation = replay.reset(3)
    np.testing.assert_array_equal(episode.images[0], observation["image"])
    np.testing.assert_array_equal(episode.actions[0], replay.expert_action())
    followed = replay.step(episode.actions[0])[0]["proprio"]
    assert np.abs(followed - episode.proprio[1]).max() > 1e-3  # the arm went elsewhere than the label says


def test_demonstrations_without_noise_are_exactly_the_expert():
    env = Tabletop("arm5", "push")
    episode = demonstrate(env, 4)
    env.reset(4)
    for proprio, action in zip(episode.proprio, episode.actions, strict=True):
        np.testing.assert_array_equal(proprio, env.proprio())
        env.step(action, render=False)
    assert env.success() == episode.success
