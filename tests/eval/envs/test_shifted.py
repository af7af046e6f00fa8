"""Shifts that any robot can be put under, on the tabletop seen as any robot."""

from __future__ import annotations

import numpy as np
import pytest

from eval.envs.environment import EVALUATION_SEED
from eval.envs.shifted import DIM, SHIFTS, Shifted, misspell
from eval.envs.tabletop.adapter import TabletopEnvironment


def begun(shift: str | None, seed: int = 1):
    env = TabletopEnvironment("reach", "arm5")
    env = Shifted(env, shift) if shift else env
    env.reset(EVALUATION_SEED + seed)
    return env


@pytest.mark.parametrize("shift", SHIFTS)
def test_one_thing_is_other_than_in_the_same_episode_without_it(shift):
    plain, shifted, again = begun(None), begun(shift), begun(shift)
    seen, other, same = (env.observe() for env in (plain, shifted, again))
    np.testing.assert_array_equal(other.images["front"], same.images["front"])
    np.testing.assert_array_equal(seen.proprio, other.proprio)
    looks = not np.array_equal(seen.images["front"], other.images["front"])
    assert (looks, plain.instruction != shifted.instruction) == (shift in ("light", "camera"), shift == "typos")
    for env in (plain, shifted):
        env.step(env.expert())
        env.step(np.zeros(6, np.float32))
    late = not np.allclose(plain.observe().proprio, shifted.observe().proprio)
    assert late == (shift == "slow_arm")


def test_a_dim_picture_is_tinted_and_a_moved_one_is_the_same_picture_elsewhere():
    seen = begun(None).observe().images["front"]
    dim, moved = (begun(shift).observe().images["front"] for shift in ("light", "camera"))
    ratio = dim[seen > 0] / seen[seen > 0]
    assert 0.8 * DIM < np.median(ratio) < 1.2 * DIM
    step = round(0.08 * 64)
    inner = moved[10:-10, 10:-10]
    places = [(dy, dx) for dy in (-step, step) for dx in (-step, step)]
    assert any(np.array_equal(inner, seen[10 + dy : 54 + dy, 10 + dx : 54 + dx]) for dy, dx in places)


def test_it_is_an_environment_like_the_one_inside():
    plain, shifted = begun(None), begun("light")
    for name in (
        "embodiment",
        "task",
        "control_hz",
        "max_steps",
        "cameras",
        "proprio_names",
        "action_names",
        "plan_names",
    ):
        assert getattr(plain, name) == getattr(shifted, name)
    for _ in range(plain.max_steps):
        for env in (plain, shifted):
            env.step(env.expert())
    assert plain.success
    assert shifted.success
    shifted.reset(EVALUATION_SEED)
    assert not shifted.success
    shifted.close()


def test_only_words_of_some_length_are_misspelt():
    rng = np.random.default_rng(0)
    assert misspell("go to it", 2, rng) == "go to it"
    for _ in range(20):
        words = misspell("lift the yellow cube", 3, rng).split()
        assert words[1] == "the"
        assert sum(a != b for a, b in zip(words, ("lift", "the", "yellow", "cube"), strict=True)) <= 3
