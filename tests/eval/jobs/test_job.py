"""A job runs every episode once, whoever runs it, however it is cut up and however often it is stopped."""

from __future__ import annotations

import json
import multiprocessing

import numpy as np
import pytest

from eval.envs.environment import EVALUATION_SEED
from eval.envs.tabletop import Tabletop
from eval.jobs.job import with_slots
from eval.jobs.processes import SimulatorError
from eval.journal import read_records
from eval.report.load import load_episodes
from tests.eval.jobs.seer import Seer, checkpoint, job

CONTROLS = ("normal", "shuffled_instruction", "blank_image", "untrained")


@pytest.fixture(autouse=True)
def seer(monkeypatch):
    monkeypatch.setattr("eval.jobs.job.Policy", Seer)
    Seer.asked.clear()


def kept(job_):
    """What a job found, without the order in which it ended."""
    return json.dumps(job_.records(), sort_keys=True)


def test_a_policy_that_sees_and_reads_succeeds_and_fails_in_every_control(tmp_path):
    found = job(tmp_path, conditions=CONTROLS, episodes=6, films=0)
    assert found.execute()
    rates = {}
    for record in found.records().values():
        rates.setdefault(record["condition"], []).append(record["success"])
    share = {condition: np.mean(values) for condition, values in rates.items()}
    assert [len(values) for values in rates.values()] == [12] * 4
    assert share["normal"] >= 0.8
    assert share["blank_image"] == share["untrained"] == 0
    assert share["shuffled_instruction"] <= 0.5


def test_a_control_changes_what_the_policy_is_shown_and_nothing_else(tmp_path):
    job(tmp_path, conditions=CONTROLS, episodes=2, batch_size=16, execute=100).execute()
    normal, wrong, blank, _ = (Seer.asked[4 * i : 4 * (i + 1)] for i in range(4))
    for one, other, dark in zip(normal, wrong, blank, strict=True):
        assert one.instruction == dark.instruction != other.instruction
        assert one.images[0].any()
        assert not dark.images[0].any()
        np.testing.assert_array_equal(one.images[0], other.images[0])
        np.testing.assert_array_equal(one.proprio, dark.proprio)
        assert one.embodiment == other.embodiment == dark.embodiment


@pytest.mark.parametrize("goal", ["image", "both"])
def test_an_arm_that_is_told_in_pictures_is_shown_how_the_expert_leaves_the_same_scene(tmp_path, goal):
    shown = ("normal", "shuffled_instruction", "blank_image")
    found = job(tmp_path, conditions=shown, episodes=1, arms=("arm5",), execute=100, goal=goal)
    assert found.execute()
    normal, other, blank = Seer.asked[:3]
    world = Tabletop("arm5", "reach", "test")
    world.reset(EVALUATION_SEED)
    assert normal.instruction == ("" if goal == "image" else world.instruction)
    while not world.success():
        world.step(world.expert_action(), render=False)
    np.testing.assert_array_equal(normal.goal[0], world.observe()["image"])
    np.testing.assert_array_equal(normal.images[0], world.reset(EVALUATION_SEED)["image"])  # it acts from the start
    assert np.abs(other.goal[0].astype(int) - normal.goal[0]).mean() > 1
    np.testing.assert_array_equal(other.images[0], normal.images[0])
    assert not blank.goal[0].any()
    job(tmp_path, "words", episodes=1, arms=("arm5",)).execute()
    assert Seer.asked[-1].goal == ()


def test_each_look_has_a_seed_of_its_own_and_what_is_left_of_the_last_chunk(tmp_path):
    job(tmp_path, episodes=1, arms=("arm5",), execute=3).execute()
    first, second = Seer.asked[:2]
    assert first.running is None
    assert second.running.shape == (5, 6)
    assert len({seen.seed for seen in Seer.asked}) == len(Seer.asked)


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 50}, {"processes": 2}])
def test_results_do_not_depend_on_how_many_episodes_run_side_by_side_or_on_processes(tmp_path, changes):
    one, other = job(tmp_path, "one"), job(tmp_path, "other", **changes)
    assert one.execute()
    assert other.execute()
    assert kept(one) == kept(other)
    films = [{film.instruction: film.frames for film in load_episodes(each.out)} for each in (one, other)]
    assert len(films[0]) == 2
    for told, frames in films[0].items():
        np.testing.assert_array_equal(frames, films[1][told])


def test_hosts_share_the_episodes_and_the_last_one_knows_that_it_is(tmp_path):
    alone, shared = job(tmp_path, "alone"), job(tmp_path, "shared")
    assert alone.execute()
    assert [shared.execute(host, 3) for host in (2, 0, 1)] == [False, False, True]
    assert kept(shared) == kept(alone)
    sizes = [len(read_records(shared.out / f"records-{host}.jsonl")) for host in range(3)]
    assert sizes == [3, 3, 2]


def test_a_killed_job_goes_on_without_repeating_or_losing_an_episode(tmp_path):
    whole, killed = job(tmp_path, "whole"), job(tmp_path, "killed")
    whole.execute()

    def die_after(count):
        def report(done, total, record):
            if record is not None and done == count:
                raise KeyboardInterrupt

        return report

    for count in (2, 3, 6):
        with pytest.raises(KeyboardInterrupt):
            killed.execute(report=die_after(count))
    path = killed.out / "records-0.jsonl"
    with path.open("a") as file:
        file.write('{"id": "reach/arm5/normal/0000", "succ')  # cut off in the middle of a line
    assert killed.execute()
    lines = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted(episode.id for episode in whole.episodes)
    assert kept(killed) == kept(whole)
    Seer.asked.clear()
    assert killed.execute()  # all is done: nobody is asked
    assert not Seer.asked


def test_a_job_that_is_asked_for_more_keeps_what_it_has(tmp_path):
    job(tmp_path, episodes=2).execute()
    Seer.asked.clear()
    more = job(tmp_path, episodes=3, conditions=("normal", "light"), batch_size=20, execute=4)
    assert more.execute()
    assert len(more.records()) == 12
    told = {record["instruction"] for record in job(tmp_path, episodes=2).records().values()}
    shifted = {record["instruction"] for record in more.records().values() if record["condition"] == "light"}
    assert told < shifted  # the same episodes, in another light


def test_records_of_another_checkpoint_or_other_settings_are_refused(tmp_path):
    job(tmp_path, episodes=1).execute()
    with pytest.raises(ValueError, match=r"--out .*out holds answers for other settings: step, trained; give another"):
        job(tmp_path, step=4).execute()
    with pytest.raises(ValueError, match="other settings: execute;"):
        job(tmp_path, execute=2).execute()


def test_episodes_are_those_of_the_evaluation_seeds_in_every_condition(tmp_path):
    episodes = job(tmp_path, conditions=("normal", "visual"), episodes=5).episodes
    seeds = {}
    for episode in episodes:
        seeds.setdefault((episode.arm, episode.condition), []).append(episode.seed)
    assert len(seeds) == 2 * 6
    assert all(found == list(range(EVALUATION_SEED, EVALUATION_SEED + 5)) for found in seeds.values())
    assert len({episode.id for episode in episodes}) == len(episodes)


def test_a_robot_or_camera_that_the_checkpoint_does_not_know_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match=r"knows the robots arm5, arm7; tabletop has arm5, arm6, arm7: give those of"):
        job(tmp_path, arms=()).execute()
    other = job(tmp_path, "other")
    other.checkpoint.config["sources"]["arm5"]["cameras"] = ("observation.images.wrist",)
    with pytest.raises(ValueError, match="looks at arm5 through 'wrist'; tabletop has the cameras front: train on a"):
        other.execute()
    assert not Seer.asked


def test_rows_can_be_longer_than_in_training_and_not_shorter(tmp_path):
    found = checkpoint(tmp_path)
    with pytest.raises(ValueError, match="slots is 20; training had rows of 24"):
        with_slots(found, 20)


def test_a_simulator_that_fails_elsewhere_is_an_error_here(tmp_path, monkeypatch):
    monkeypatch.setattr(Seer, "_chunk", lambda self, seen: np.full((8, 6), np.nan, np.float32))
    with pytest.raises(ValueError, match="arm5 takes 6 finite numbers"):
        job(tmp_path, arms=("arm5",), processes=2).execute()


def test_a_simulator_that_dies_is_told_with_the_remedy_and_its_episodes_are_run_again(tmp_path, monkeypatch):
    found = job(tmp_path, arms=("arm5",), processes=2, batch_size=1)  # one lane each: whoever ends first has more to do

    def kill(done, total, record):
        if record is not None and done == 1:
            for child in multiprocessing.active_children():
                child.kill()
                child.join()

    with pytest.raises(SimulatorError, match="ended with exit code -9; run the same command again to go on"):
        found.execute(report=kill)
    assert 1 <= len(found.records()) < 4
    assert found.execute()
    assert len(read_records(found.out / "records-0.jsonl")) == 4
