"""Recorded demonstrations, read back with pyarrow alone."""

import io
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eval.envs.tabletop import ARMS, EVALUATION_SEED, Tabletop
from eval.record import record


def _rows(root):
    return pq.read_table(sorted(root.glob("data/*/*.parquet"))).to_pylist()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    out = tmp_path_factory.mktemp("record")
    return out, record(out, {"reach": 2, "lift": 1}, ["arm5", "arm7"], seed=10, noise=0.01, scenes=60)


def test_there_is_one_dataset_an_arm_with_all_tasks(recorded):
    out, summary = recorded
    assert sorted(path.name for path in out.iterdir()) == ["arm5", "arm7", "instructions.txt", "scenes"]
    assert set(summary.episodes) == {"reach/arm5", "lift/arm5", "reach/arm7", "lift/arm7"}
    for arm, width in (("arm5", 5), ("arm7", 7)):
        info = json.loads((out / arm / "meta" / "info.json").read_text())
        assert info["codebase_version"] == "v3.0"
        assert (info["fps"], info["total_episodes"], info["robot_type"]) == (10, 3, arm)
        assert info["features"]["action"]["shape"] == [width + 1]
        assert info["features"]["observation.state"]["shape"] == [width + 4]
        assert info["features"]["action"]["names"] == list(ARMS[arm].action_names)


def test_rows_hold_the_pictures_states_and_clean_actions_of_the_episode(recorded):
    out, _ = recorded
    rows = [row for row in _rows(out / "arm5") if row["episode_index"] == 1]
    env = Tabletop("arm5", "reach")
    observation = env.reset(11)
    picture = np.asarray(Image.open(io.BytesIO(rows[0]["observation.images.front"]["bytes"])))
    np.testing.assert_array_equal(picture, observation["image"])
    np.testing.assert_array_equal(np.float32(rows[0]["observation.state"]), observation["proprio"])
    np.testing.assert_array_equal(np.float32(rows[0]["action"]), env.expert_action())
    assert json.loads(rows[0]["annotation.points"]) == env.grounded()
    tasks = pq.read_table(out / "arm5" / "meta" / "tasks.parquet").to_pylist()
    assert any(env.instruction in row.values() and row["task_index"] == rows[0]["task_index"] for row in tasks)


def test_arms_start_anywhere_and_hold_after_success_if_asked(tmp_path):
    summary = record(tmp_path, {"reach": 12}, ["arm6"], anywhere=True, hold=6, noise=0)
    plain = record(tmp_path / "plain", {"reach": 12}, ["arm6"], noise=0)
    tips = [row["observation.state"][-3:] for row in _rows(tmp_path / "arm6") if row["frame_index"] == 0]
    home = [row["observation.state"][-3:] for row in _rows(tmp_path / "plain" / "arm6") if row["frame_index"] == 0]
    assert np.ptp(tips, axis=0)[0] > 1.5 * np.ptp(home, axis=0)[0]
    last = {row["episode_index"]: row["action"] for row in _rows(tmp_path / "arm6")}
    for episode, action in last.items():
        rows = [row for row in _rows(tmp_path / "arm6") if row["episode_index"] == episode]
        assert np.abs(np.subtract(action, rows[-4]["action"])).max() < 0.05
    assert summary.episodes["reach/arm6"].frames > plain.episodes["reach/arm6"].frames + 3 * 12


def test_stills_have_points_and_no_actions(recorded):
    out, summary = recorded
    rows = _rows(out / "scenes")
    assert len(rows) == summary.scenes == 60
    assert "action" not in rows[0]
    points = [json.loads(row["annotation.points"]) for row in rows]
    assert np.mean([len(p) for p in points]) > 2
    assert all(0 <= c <= 1000 for p in points for entry in p[:-1] for c in entry["point"])
    assert all(0 <= c <= 1000 for p in points for point in p[-1]["trajectory"] for c in point)


def test_what_is_recorded_does_not_depend_on_the_number_of_processes(tmp_path):
    for processes in (1, 2):
        record(tmp_path / str(processes), {"reach": 3}, ["arm6"], noise=0.02, processes=processes)
    assert _rows(tmp_path / "1" / "arm6") == _rows(tmp_path / "2" / "arm6")


def test_failed_episodes_are_replaced_unless_they_are_wanted(tmp_path, monkeypatch):
    from eval import record as module

    def every_second_fails(job):
        sentence, columns, _ = made(job)
        return sentence, columns, job.seed % 2 == 0

    made = module._make
    monkeypatch.setattr(module, "_make", every_second_fails)
    summary = record(tmp_path / "a", {"reach": 2}, ["arm5"])
    assert (summary.episodes["reach/arm5"].successes, summary.episodes["reach/arm5"].attempts) == (2, 3)
    summary = record(tmp_path / "b", {"reach": 2}, ["arm5"], keep_failures=True)
    assert (summary.episodes["reach/arm5"].successes, summary.episodes["reach/arm5"].attempts) == (1, 2)
    monkeypatch.setattr(module, "_make", lambda job: (*made(job)[:2], False))
    with pytest.raises(ValueError, match="0 of 4 attempts at reach with arm5 succeeded; use less noise"):
        record(tmp_path / "c", {"reach": 1}, ["arm5"])
    assert not (tmp_path / "c" / "arm5").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": {"fold": 1}}, "task 'fold' is not known; choose from reach"),
        ({"arms": ["arm9"]}, "arm 'arm9' is not known; choose from arm5"),
        ({"tasks": {"reach": -1}}, "numbers from 0 up"),
        ({"tasks": {}}, "one above 0"),
        ({"seed": EVALUATION_SEED}, "kept for evaluation"),
        ({"seed": EVALUATION_SEED - 3}, "kept for evaluation"),
        ({"seed": -1}, "seed=-1"),
        ({"noise": 1.0}, "noise is 0 to 0.2"),
        ({"processes": 0}, "processes at least 1"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_made(tmp_path, change, message):
    request = {"tasks": {"reach": 1}, "arms": ["arm5"], **change}
    with pytest.raises(ValueError, match=message):
        record(tmp_path / "out", **request)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "arm5").mkdir()
    (tmp_path / "arm5" / "precious").write_text("x")
    with pytest.raises(ValueError, match="not an empty folder"):
        record(tmp_path, {"reach": 1}, ["arm5"])


def test_the_command_records_and_reports_without_loading_jax(tmp_path):
    code = "import sys; from eval import record; record.main(); sys.exit('jax' in sys.modules)"
    flags = ["--out", str(tmp_path / "out"), "--task", "reach", "--arm", "arm5", "--episodes", "2", "--processes", "1"]
    done = subprocess.run([sys.executable, "-c", code, *flags], check=True, capture_output=True, text=True)
    assert "reach/arm5: 2 of 2 attempts succeeded" in done.stdout
