"""A batch of environments equals the same environments alone."""

import numpy as np
import pytest

from eval.envs.tabletop import EVALUATION_SEED, Tabletop, TabletopBatch


def test_a_batch_does_what_its_environments_do_alone():
    seeds = [EVALUATION_SEED, EVALUATION_SEED + 1]
    batch, alone = TabletopBatch("arm5", "reach", 2), [Tabletop("arm5", "reach") for _ in seeds]
    stacked = batch.reset(seeds)
    single = [env.reset(seed) for env, seed in zip(alone, seeds, strict=True)]
    assert batch.instructions == [env.instruction for env in alone]
    for _ in range(3):
        for index, observation in enumerate(single):
            for name, value in observation.items():
                np.testing.assert_array_equal(stacked[name][index], value)
        actions = np.stack([env.expert_action() for env in alone])
        stacked, _ = batch.step(actions)
        single = [env.step(action)[0] for env, action in zip(alone, actions, strict=True)]


def test_success_is_kept_and_a_finished_environment_stands_still():
    batch = TabletopBatch("arm5", "reach", 2)
    batch.reset([0, 1])
    while not batch.success[0]:
        actions = np.stack([env.expert_action() for env in batch.envs])
        actions[1] = batch.envs[1].proprio()[:6]  # the second arm rests
        _, done = batch.step(actions, render=False)
    assert done.tolist() == [True, False]
    still = batch.envs[0].proprio()
    _, done = batch.step(np.zeros((2, 6)), render=False)
    np.testing.assert_array_equal(batch.envs[0].proprio(), still)
    assert batch.success.tolist() == [True, False]


def test_an_episode_ends_with_the_steps_of_its_task():
    batch = TabletopBatch("arm5", "reach", 1)
    start = batch.reset([0])["proprio"][:, :6]
    for _ in range(batch.max_steps):
        assert not batch.done[0]
        observation, _ = batch.step(start, render=False)
        assert observation is None
    assert batch.done[0]
    assert not batch.success[0]


def test_one_seed_for_each_environment_is_asked_for():
    with pytest.raises(ValueError, match="3 seeds for 2 environments"):
        TabletopBatch("arm5", "reach", 2).reset([1, 2, 3])
