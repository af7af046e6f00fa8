"""The tabletop environment: sizes, seeds, refusals."""

import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest

from eval.envs.tabletop import ARMS, EVALUATION_SEED, TASKS, Tabletop


@pytest.mark.parametrize(("arm", "joints"), [("arm5", 5), ("arm6", 6), ("arm7", 7)])
def test_each_arm_has_its_own_action_and_proprioception_size(arm, joints):
    env = Tabletop(arm, "reach")
    observation = env.reset(0)
    assert observation["image"].shape == (64, 64, 3)
    assert observation["image"].dtype == np.uint8
    assert observation["proprio"].shape == (joints + 4,) == (env.proprio_size,) == (len(ARMS[arm].proprio_names),)
    assert observation["proprio"].dtype == np.float32
    assert env.expert_action().shape == (joints + 1,) == (env.action_size,) == (len(ARMS[arm].action_names),)


def test_proprioception_is_raw_joint_angles_gripper_opening_and_fingertip_position():
    env = Tabletop("arm6", "reach")
    env.reset(3)
    env.step(np.append(env.proprio()[:6] + 0.1, 1.0))
    proprio = env.proprio()
    tip, _ = env.kinematics.forward(proprio[:6].astype(float))
    np.testing.assert_allclose(proprio[7:], tip, atol=1e-6)
    assert 0.8 < proprio[6] <= 1.01
    np.testing.assert_allclose(proprio[:6], [env.data.joint(j.name).qpos[0] for j in ARMS["arm6"].joints], atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_an_episode_is_a_function_of_its_seed(task):
    def run(env):
        frames = [env.reset(7)]
        frames += [env.step(env.expert_action())[0] for _ in range(6)]
        return env.instruction, env.layout, frames

    used = Tabletop("arm7", task)
    used.reset(99)
    used.step(used.expert_action())  # what came before leaves no trace
    first, second = run(Tabletop("arm7", task)), run(used)
    assert first[:2] == second[:2]
    for a, b in zip(first[2], second[2], strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["proprio"], b["proprio"])


def test_different_seeds_arms_and_tasks_give_different_tables():
    layouts = set()
    for arm in ARMS:
        for task in TASKS:
            env = Tabletop(arm, task)
            for seed in (0, 1, EVALUATION_SEED, EVALUATION_SEED + 1):
                env.reset(seed)
                layouts.add(env.layout)
    assert len(layouts) == len(ARMS) * len(TASKS) * 4


def test_the_wording_changes_the_sentence_and_not_the_table():
    train, test = Tabletop("arm5", "push"), Tabletop("arm5", "push", wording="test")
    first, second = train.reset(5), test.reset(5)
    assert train.instruction != test.instruction
    np.testing.assert_array_equal(first["image"], second["image"])


def test_a_step_without_rendering_moves_the_same_world():
    drawn, blind = Tabletop("arm5", "lift"), Tabletop("arm5", "lift")
    drawn.reset(1)
    blind.reset(1)
    for _ in range(8):
        action = drawn.expert_action()
        observation, _ = drawn.step(action)
        nothing, _ = blind.step(action, render=False)
        assert nothing is None
    np.testing.assert_array_equal(blind.observe()["image"], observation["image"])


@pytest.mark.parametrize("arm", ARMS)
def test_joints_reach_their_targets_within_a_control_step(arm):
    env = Tabletop(arm, "reach")
    env.reset(0)
    for _ in range(5):
        before, action = env.proprio()[: env.num_joints], env.expert_action()[:-1]
        env.step(np.append(action, 0.0), render=False)
        after = env.proprio()[: env.num_joints]
        assert np.abs(after - action).max() < 0.15 * np.abs(before - action).max() + 0.01


def test_a_held_posture_does_not_sag():
    env = Tabletop("arm7", "reach")
    env.reset(2)
    start = env.proprio()
    for _ in range(20):
        env.step(np.append(start[:7], 0.0), render=False)
    np.testing.assert_allclose(env.proprio(), start, atol=2e-3)


def test_objects_stay_where_they_are_put():
    env = Tabletop("arm5", "stack")
    env.reset(4)
    start = env.state().objects
    for _ in range(20):
        env.step(np.append(env.proprio()[:5], 0.0), render=False)
    np.testing.assert_allclose(env.state().objects, start, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("arm8", "reach"), "arm='arm8'.*arm5, arm6, arm7"),
        (("arm5", "fold"), "task='fold'.*reach, push, lift, stack, sort"),
        (("arm5", "reach", "dev"), "wording='dev'.*train, test"),
    ],
)
def test_unknown_names_are_refused_with_those_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        Tabletop(*arguments)


@pytest.mark.parametrize("action", [np.zeros(7), np.full(6, np.nan), np.array([0, 0, 0, 0, np.inf, 0]), 0.0])
def test_an_action_of_the_wrong_size_or_not_finite_is_refused(action):
    env = Tabletop("arm5", "reach")
    env.reset(0)
    with pytest.raises(ValueError, match=r"arm5 takes 6 finite numbers.*shoulder"):
        env.step(action)


def test_targets_outside_the_joint_ranges_are_clipped():
    env = Tabletop("arm5", "reach")
    env.reset(0)
    for _ in range(10):
        env.step(np.full(6, 100.0), render=False)
    assert np.isfinite(env.proprio()).all()
    assert (env.data.ctrl[:5] <= env.kinematics.high + 1e-9).all()


def test_scenes_show_annotated_objects_and_differ_from_episodes():
    env = Tabletop("arm6", "push")
    pictures, counts = [], []
    for seed in range(20):
        observation, points = env.scene(seed)
        pictures.append(observation["image"].tobytes())
        counts.append(len(points))
        assert {p["label"] for p in points} <= {t.name for t in (*env.layout.objects, *env.layout.zones)}
    assert len(set(pictures)) == 20
    assert np.mean(counts) > 4.0  # of 5 things, a few hidden by the arm
    assert env.reset(0)["image"].tobytes() not in pictures


def test_it_runs_where_opengl_is_disabled_and_loads_no_jax():
    code = (
        "import sys, eval.envs.tabletop as t; t.Tabletop('arm5', 'reach').reset(0); "
        "bad = {'jax', 'OpenGL'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "MUJOCO_GL": "disable"})


def test_one_compiled_model_serves_every_layout():
    env = Tabletop("arm5", "sort")
    model = env.model
    for seed in range(5):
        env.reset(seed)
        assert env.model is model
    sizes = [tuple(model.geom(f"object{i}").size) for i in range(len(env.layout.objects))]
    assert len(sizes) >= 2
    assert isinstance(model, mujoco.MjModel)


@pytest.mark.parametrize(("task", "end"), [("reach", None), ("push", "zone"), ("lift", None), ("stack", "support")])
def test_the_plan_points_at_what_to_move_and_where_to(task, end):
    env = Tabletop("arm6", task)
    for seed in range(5):
        env.scene(seed)
        target = env.layout.objects[env.goal.target].name
        named = {entry["label"]: entry.get("point") for entry in env.points()}
        goal = {
            "zone": lambda: env.layout.zones[env.goal.zone],
            "support": lambda: env.layout.objects[env.goal.support],
        }
        names = [target, goal[end]().name if end else target]
        plan = env.plan().reshape(2, 2)
        for name, point in zip(names, plan, strict=True):
            if name in named:
                np.testing.assert_allclose(point, named[name], atol=0.51)
        assert env.grounded()[-1] == {"label": env.instruction, "trajectory": plan.round().astype(int).tolist()}


def test_the_plan_of_sort_is_for_an_object_that_is_not_in_its_zone():
    env = Tabletop("arm6", "sort")
    env.reset(0)
    first = env.layout.objects[0]
    points = {entry["label"]: entry["point"] for entry in env.points()}
    np.testing.assert_allclose(env.plan()[:2], points[first.name], atol=0.51)
    np.testing.assert_allclose(env.plan()[2:], points[f"{first.colour} zone"], atol=0.51)
