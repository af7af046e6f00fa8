"""A shift changes what its name says and leaves the rest of the episode as it lies."""

from __future__ import annotations

import numpy as np
import pytest

from eval.envs.environment import EVALUATION_SEED
from eval.envs.tabletop import TASKS, Tabletop
from eval.envs.tabletop.shifts import EXTRA_COLOURS, SHIFTS, VIEW_HALF
from eval.envs.tabletop.tasks import HALF_TABLE

KINDS = {shift.kind for shift in SHIFTS.values()}
VISUAL = [name for name, shift in SHIFTS.items() if shift.kind == "visual"]
LOOKS_ONLY = ("light", "colours", "background", "camera")


def begun(name: str | None, seed: int = 3, task: str = "push", arm: str = "arm6"):
    env = Tabletop(arm, task, "test", SHIFTS[name] if name else None)
    return env, env.reset(EVALUATION_SEED + seed)


def test_there_are_shifts_of_all_three_kinds():
    assert {"visual", "instruction", "action"} == KINDS


@pytest.mark.parametrize("name", SHIFTS)
def test_an_episode_is_a_function_of_its_seed(name):
    (one, seen), (other, again) = begun(name), begun(name)
    np.testing.assert_array_equal(seen["image"], again["image"])
    assert one.instruction == other.instruction
    action = one.expert_action()
    for env in (one, other):
        env.step(action)
    np.testing.assert_array_equal(one.proprio(), other.proprio())
    assert one.reset(EVALUATION_SEED + 3)["image"].tobytes() == seen["image"].tobytes()  # also when used again


@pytest.mark.parametrize("name", [name for name in SHIFTS if name not in ("placement",)])
def test_things_lie_as_they_lie_without_it(name):
    (plain, _), (shifted, _) = begun(None), begun(name)
    assert (shifted.layout.objects, shifted.layout.zones) == (plain.layout.objects, plain.layout.zones)
    assert shifted.goal == plain.goal


@pytest.mark.parametrize("name", LOOKS_ONLY)
def test_looks_do_not_change_what_happens(name):
    (plain, seen), (shifted, other) = begun(None), begun(name)
    assert np.abs(seen["image"].astype(int) - other["image"]).mean() > 2
    assert shifted.instruction == plain.instruction
    for _ in range(5):
        action = plain.expert_action()
        plain.step(action)
        shifted.step(action)
    np.testing.assert_array_equal(plain.proprio(), shifted.proprio())
    np.testing.assert_array_equal(plain.state().objects, shifted.state().objects)


def test_light_dims_the_picture_and_throws_shadows_elsewhere():
    (_, seen), (_, dim) = begun(None), begun("light")
    assert 0.4 < dim["image"].mean() / seen["image"].mean() < 0.7


@pytest.mark.parametrize("task", TASKS)
def test_distractors_stand_aside_in_colours_that_no_instruction_names(task):
    for seed in range(10):
        env, _ = begun("distractors", seed, task)
        assert len(env.layout.extras) >= 2
        for extra in env.layout.extras:
            assert extra.colour in EXTRA_COLOURS
            assert max(map(abs, extra.xy)) <= VIEW_HALF
            apart = [np.hypot(*np.subtract(extra.xy, other.xy)) for other in env.layout.objects]
            assert min(apart) > 0.099
        assert env.state().objects.shape == (len(env.layout.objects), 3)  # no task is about them


@pytest.mark.parametrize("task", ["reach", "push", "lift", "stack"])
def test_other_words_name_the_same_things(task):
    names = {"red": "roj", "green": "verde", "blue": "azul", "yellow": "amarill", "purple": "morad", "cyan": "cian"}
    plain, _ = begun(None, task=task)
    trained = {word for sentence in _sentences("train", task) for word in sentence.split()}
    for seed in range(8):
        said, _ = begun("rephrased", seed, task)
        colour = said.layout.objects[said.goal.target].colour
        assert colour in said.instruction
        assert set(said.instruction.split()) - trained - {colour}
        spoken, _ = begun("spanish", seed, task)
        assert names[spoken.layout.objects[spoken.goal.target].colour] in spoken.instruction
        assert "{" not in said.instruction + spoken.instruction
    assert plain.wording == "test"


def _sentences(wording: str, task: str):
    from eval.envs.tabletop import WORDINGS

    return WORDINGS[wording][task]


def test_typos_change_a_few_letters():
    for seed in range(10):
        told, misspelt = begun(None, seed)[0].instruction, begun("typos", seed)[0].instruction
        changed = [a for a, b in zip(told.split(), misspelt.split(), strict=True) if a != b]
        assert 1 <= len(changed) <= 2  # two letters swapped may be the same
        assert abs(len(told) - len(misspelt)) <= 2


def test_the_arm_starts_where_it_never_did_with_an_open_gripper():
    for seed in range(5):
        env, _ = begun("start", seed)
        assert env.state().tip[2] > 0.25
        assert env.state().opening > 0.99


def test_what_is_named_lies_outside_the_square_of_training_and_in_the_picture():
    for task in TASKS:
        for seed in range(10):
            env, _ = begun("placement", seed, task)
            assert HALF_TABLE < max(map(abs, env.layout.objects[env.goal.target].xy)) < VIEW_HALF
            assert all(max(map(abs, item.xy)) < VIEW_HALF for item in env.layout.objects)


def test_heavy_objects_are_heavy_and_a_slow_arm_is_late():
    (plain, _), (heavy, _), (slow, _) = begun(None), begun("heavy"), begun("slow_arm")
    mass = lambda env: env.model.body("object0").mass[0]  # noqa: E731
    assert mass(heavy) == pytest.approx(4 * mass(plain))
    heavy.reset(EVALUATION_SEED + 4)
    assert mass(heavy) == pytest.approx(4 * mass(plain))  # not more with every episode
    start = plain.proprio()
    action = np.append(plain.kinematics.rest, 0.0)
    for env in (plain, slow):
        env.step(action)
    moved, late = (np.abs(env.proprio() - start)[:6].sum() for env in (plain, slow))
    assert late < 0.8 * moved


@pytest.mark.parametrize("name", [name for name in SHIFTS if SHIFTS[name].kind != "instruction"])
def test_no_shift_makes_a_task_impossible(name):
    solved = 0
    for seed in range(4):
        env, _ = begun(name, seed)
        for _ in range(env.max_steps):
            if env.step(env.expert_action(), render=False)[1]:
                break
        solved += env.success()
    assert solved >= 3
