"""Recorded episodes of a suite, read back with pyarrow alone."""

import io
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eval.envs.registry import make
from eval.rollout import play
from eval.rollout.play import Job, Scene
from eval.rollout.record import jobs_of, rollout

SCENE = Scene("tabletop", "", "", "train", ("front",), 64)


def rows(root):
    return pq.read_table(sorted(root.glob("data/*/*.parquet"))).to_pylist()


def jobs(tasks=("reach",), robots=("arm5",), **settings):
    return jobs_of(SCENE, list(tasks), list(robots), **settings)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    out = tmp_path_factory.mktemp("rollout")
    summary = rollout(out, jobs(("reach", "lift"), ("arm5", "arm7"), seed=10, noise=0.01, hold=3), episodes=2)
    return out, summary


def test_there_is_one_dataset_a_robot_with_all_tasks(recorded):
    out, summary = recorded
    assert sorted(path.name for path in out.iterdir()) == ["arm5", "arm7", "instructions.txt"]
    assert set(summary.episodes) == {"reach/arm5", "lift/arm5", "reach/arm7", "lift/arm7"}
    for robot, width in (("arm5", 5), ("arm7", 7)):
        info = json.loads((out / robot / "meta" / "info.json").read_text())
        assert (info["fps"], info["total_episodes"], info["robot_type"]) == (10, 4, robot)
        assert info["features"]["action"]["shape"] == [width + 1]
        assert info["features"]["action"]["names"] == list(make("tabletop", "reach", robot).action_names)
        assert info["features"]["next.success"] == {"dtype": "bool", "shape": [1], "names": None}
    assert len((out / "instructions.txt").read_text().splitlines()) == 8


def test_rows_hold_what_the_robot_saw_and_felt_and_what_the_expert_meant(recorded):
    out, _ = recorded
    first = [row for row in rows(out / "arm5") if row["episode_index"] == 1]
    env = make("tabletop", "reach", "arm5")
    env.reset(11)
    sight = env.observe()
    picture = np.asarray(Image.open(io.BytesIO(first[0]["observation.images.front"]["bytes"])))
    np.testing.assert_array_equal(picture, sight.images["front"])
    np.testing.assert_array_equal(np.float32(first[0]["observation.state"]), sight.proprio)
    np.testing.assert_array_equal(np.float32(first[0]["action"]), env.expert())


def test_episodes_go_on_for_the_asked_steps_after_success(recorded):
    for row_of in rows(recorded[0] / "arm7"), rows(recorded[0] / "arm5"):
        for episode in range(4):
            successes = [row["next.success"] for row in row_of if row["episode_index"] == episode]
            assert successes == sorted(successes)
            assert sum(successes) == 1 + 3


def test_rows_say_what_the_robot_is_to_move_and_where_to(recorded):
    out, _ = recorded
    env = make("tabletop", "lift", "arm7")
    env.reset(10)
    first = next(row for row in rows(out / "arm7") if row["episode_index"] == 2)
    np.testing.assert_array_equal(np.float32(first["annotation.plan"]), env.plan())


def test_stills_are_single_steps_from_anywhere(tmp_path):
    rollout(tmp_path, jobs(seed=10, anywhere=True, steps=1), 3, keep_failures=True)
    seen = rows(tmp_path / "arm5")
    assert [row["episode_index"] for row in seen] == [0, 1, 2]
    env = make("tabletop", "reach", "arm5")
    env.reset(10)
    usual = env.observe().proprio
    env.reset(10, anywhere=True)
    np.testing.assert_array_equal(np.float32(seen[0]["observation.state"]), env.observe().proprio)
    assert (env.observe().proprio != usual).any()


def test_the_expert_may_go_ahead_unrecorded_each_episode_by_its_own_number_of_steps(tmp_path):
    rollout(tmp_path, jobs(seed=10, skip=20, steps=1), 6, keep_failures=True)
    env, reached = make("tabletop", "reach", "arm5"), []
    for episode, row in enumerate(rows(tmp_path / "arm5")[:6]):
        env.reset(10 + episode)
        states = [env.observe().proprio]
        for _ in range(20):
            env.step(env.expert())
            states.append(env.observe().proprio)
        reached += [step for step, state in enumerate(states) if (np.float32(row["observation.state"]) == state).all()]
    assert len(reached) == 6
    assert len(set(reached)) > 3


def test_what_is_recorded_does_not_depend_on_the_number_of_processes(tmp_path):
    for processes in (1, 2):
        rollout(tmp_path / str(processes), jobs(robots=["arm6"], noise=0.02), 3, processes)
    assert rows(tmp_path / "1" / "arm6") == rows(tmp_path / "2" / "arm6")


def test_the_expert_is_disturbed_smoothly_and_its_gripper_is_not():
    env = make("tabletop", "lift", "arm5")
    env.reset(0)
    act = play._disturbed(env, Job(SCENE, seed=3, noise=0.1))
    pushes = []
    for _ in range(60):
        meant, done = act()
        pushes.append(done - meant)
    pushes = np.stack(pushes)
    assert np.abs(pushes[:, :5]).max() > 1e-4
    np.testing.assert_array_equal(pushes[:, 5], 0)
    steps = np.diff(pushes[:, :5], axis=0)
    assert steps.std() < 0.8 * pushes[:, :5].std() * np.sqrt(2)


def test_a_policy_acts_in_chunks_and_its_noise_follows_from_seed_and_step(monkeypatch):
    asked = []

    class Policy:
        def act(self, observations):
            (observation,) = observations
            asked.append(observation)
            return [np.tile(np.append(observation.proprio[:5], 1.0), (8, 1)).astype(np.float32)]

    monkeypatch.setattr(play, "_policy", lambda path: Policy())
    job = Job(Scene("tabletop", "reach", "arm5", "train", ("front",), 64), seed=4, policy="somewhere", execute=3)
    sentence, columns, success = play.play(job)
    seeds = [observation.seed for observation in asked]
    assert len(columns["action"]) == 50
    assert len(asked) == 17
    assert not success
    assert asked[0].running is None
    assert asked[1].running.shape == (5, 6)
    assert {observation.instruction for observation in asked} == {sentence}
    np.testing.assert_array_equal(columns["action"][0], columns["action"][2])
    asked.clear()
    play.play(job)
    assert [observation.seed for observation in asked] == seeds
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"episodes": 0}, {}, "episodes=0"),
        ({"processes": 0}, {}, "processes=0"),
        ({}, {"seed": 2**31}, "kept for evaluation"),
        ({}, {"noise": 2.0}, "noise is 0 to 1"),
        ({}, {"hold": -1}, "hold and skip at least 0"),
        ({}, {"skip": -1}, "hold=0, skip=-1"),
        ({}, {"steps": 0}, "steps=0: an episode has at least 1"),
        ({}, {"execute": 0}, "execute at least 1"),
        ({}, {"policy": "runs/x", "noise": 0.1}, "only an expert is disturbed"),
        ({}, {"policy": "runs/x", "skip": 5}, "or goes ahead"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_made(tmp_path, change, settings, message):
    with pytest.raises(ValueError, match=message):
        rollout(tmp_path / "out", jobs(**settings), **{"episodes": 1, **change})
    assert not (tmp_path / "out").exists()


def test_the_command_records_and_reports_without_loading_jax(tmp_path):
    code = (
        "import sys; from eval.rollout import __main__ as command; command.main(); "
        "sys.exit(str({'jax', 'metaworld', 'gymnasium'} & set(sys.modules) or 0))"
    )
    flags = ["--suite", "tabletop", "--tasks", "reach", "--robots", "arm5", "--episodes", "2", "--processes", "1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags, "--out", str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.stderr.strip() == "0"
    assert "reach/arm5: 2 of 2 attempts succeeded" in done.stdout


def test_the_command_says_in_one_line_what_is_wrong(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "eval.rollout",
            "--suite",
            "tabletop",
            "--tasks",
            "fold",
            "--out",
            str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "error: task 'fold' is not known; choose from reach, push, lift, stack, sort\n"


def test_meta_world_is_recorded_at_its_own_rate_from_two_cameras(tmp_path):
    pytest.importorskip("metaworld")
    scene = Scene("metaworld", "", "", "train", ("front", "wrist"), 32)
    try:
        summary = rollout(tmp_path, jobs_of(scene, ["coffee-button-v3"], ["sawyer"], noise=0.1), episodes=1)
    except ValueError as error:
        if "MUJOCO_GL" not in str(error):
            raise
        pytest.skip(str(error))
    info = json.loads((tmp_path / "sawyer" / "meta" / "info.json").read_text())
    assert (info["fps"], info["total_frames"]) == (80, summary.episodes["coffee-button-v3/sawyer"].frames)
    assert info["features"]["observation.images.wrist"]["shape"] == [32, 32, 3]
