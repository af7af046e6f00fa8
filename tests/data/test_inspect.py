"""Inspection: what real sets hold, and every kind of problem put into a set by hand and found by name."""

import json
import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PillowImage

from data.datasets import open_dataset
from data.inspect import main
from data.inspection import find_problems, summarise
from data.inspection.summary import dim_names
from data.lerobot import LeRobotWriter

ASSETS = pathlib.Path(__file__).parents[1] / "assets"
SHARED = pathlib.Path(__file__).parents[2] / "../shared/data"
LENGTHS, FPS = (9, 8, 7, 9, 8, 7), 5


def columns(length, seed):
    """A sound episode: everything moves, every picture differs."""
    rng = np.random.default_rng(seed)
    return {
        "front": list(rng.integers(0, 256, (length, 6, 8, 3), np.uint8)),
        "observation.state": rng.normal(size=(length, 3)).astype("f4"),
        "action": rng.normal(size=(length, 2)).astype("f4"),
    }


FEATURES = {
    "front": {"dtype": "image", "shape": [6, 8, 3], "names": None},
    "observation.state": {"dtype": "float32", "shape": [3], "names": ["x", "y", "gripper"]},
    "action": {"dtype": "float32", "shape": [2], "names": None},
}


@pytest.fixture
def write(tmp_path):
    def write(change=lambda episode, values: None):
        with LeRobotWriter(tmp_path / "set", FPS, FEATURES, "arm") as writer:
            for episode, length in enumerate(LENGTHS):
                values = columns(length, episode)
                change(episode, values)
                writer.add_episode(values, f"task {episode % 2}")
        return tmp_path / "set"

    return write


def damage(root, name, row, value):
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    rows = table[name].to_pylist()
    rows[row] = value
    place = table.schema.get_field_index(name)
    pq.write_table(table.set_column(place, name, pa.array(rows, table.schema.field(name).type)), path)


def problems(root):
    return [(p.kind, p.where, p.what) for p in find_problems(open_dataset(root, lambda problem: None))]


def test_a_sound_dataset_has_no_problems(write):
    assert problems(write()) == []


def test_values_that_are_not_finite_are_counted_and_the_first_is_named(write):
    root = write()
    damage(root, "action", 11, [0.0, float("nan")])
    damage(root, "action", 20, [float("inf"), 0.0])
    assert problems(root) == [("not finite", "action", "dims 0-1 in 2 frames, the first at episode 1 frame 2")]


def test_dims_that_never_change_are_named(write):
    def change(episode, values):
        values["observation.state"][:, 1] = 4

    assert problems(write(change)) == [("constant", "observation.state", "dim 1 of 3 never change")]


def test_a_joint_that_is_stuck_in_one_episode_is_named_and_a_gripper_that_mostly_rests_is_not(write):
    def change(episode, values):
        if episode == 4:
            values["observation.state"][:, 0] = 1
        if episode % 2:
            values["observation.state"][:, 2] = 0

    assert problems(write(change)) == [("stuck", "observation.state", "in 1 episodes, the first 4 with dim 0")]


def test_a_robot_that_rests_a_lot_is_noticed(write):
    def change(episode, values):
        values["observation.state"][:] = values["observation.state"][:1] + 1e-4 * values["observation.state"]

    ((kind, where, what),) = problems(write(change))
    assert (kind, where) == ("idle", "observation.state")
    assert what.startswith("100% of the frames move less than 1% of the range in 16 frames")


def test_times_that_do_not_follow_the_frame_rate_are_named(write):
    root = write()
    for step in range(9):
        damage(root, "timestamp", step, (step + 1) / FPS)
    damage(root, "timestamp", 12, 0.9)
    late, uneven = problems(root)
    assert late == ("timestamps", "timestamp", "begin at 0.200 s and not at 0 in 1 episodes, the first 0")
    assert uneven[2].startswith("2 steps are not 0.2000 s long, the first at episode 1 frame 3: 0.5000 s")


def test_wrong_frame_numbers_and_tasks_are_named(write):
    root = write()
    damage(root, "frame_index", 10, 5)
    damage(root, "task_index", 40, 9)
    assert problems(root) == [
        ("index", "frame_index", "1 frames are counted otherwise, the first at episode 1 frame 1"),
        ("instructions", "task_index", "1 frames name no listed task, the first at episode 4 frame 7"),
    ]


def test_pictures_that_are_broken_blank_or_frozen_are_named(write):
    def change(episode, values):
        if episode == 1:
            values["front"] = [values["front"][0]] * len(values["front"])
        if episode == 2:
            values["front"][3] = np.full((6, 8, 3), 77, np.uint8)

    root = write(change)
    damage(root, "front", 0, {"bytes": b"\x89PNG", "path": None})
    broken, blank = problems(root)
    assert broken[2].startswith("1 of 30 cannot be read, the first: ")
    assert "episode 0 frame 0, feature 'front'" in broken[2]
    assert blank[2] == "1 of 30 are of one colour, the first: episode 2 frame 3"


def test_a_camera_that_froze_is_named(write):
    def change(episode, values):
        if episode in (1, 5):
            values["front"] = [values["front"][0]] * len(values["front"])

    assert problems(write(change)) == [("pictures", "front", "the same all through 2 of 6 episodes, the first 1")]


def test_an_episode_stored_twice_is_named(write):
    def change(episode, values):
        if episode == 3:
            values |= columns(9, 0)

    assert problems(write(change)) == [("repeated", "action", "1 episodes, the first 3, which is 0 again")]


def test_a_video_of_another_length_and_files_in_another_place_are_named(tmp_path):
    root = tmp_path / "set"
    shutil.copytree(ASSETS / "lerobot_v21", root, copy_function=shutil.copyfile)
    first, second = sorted((root / "videos").rglob("*.mp4"))
    shutil.copyfile(ASSETS / "lerobot_v30/videos/observation.images.wrist/chunk-000/file-000.mp4", first)
    second.write_bytes(second.read_bytes()[:400])
    (root / "data/chunk-000").rename(root / "data/chunk-007")
    found = problems(root)
    lengths, unreadable, pictures, moved = (found[k] for k in (0, 1, 2, -1))
    assert lengths[2].endswith("episode_000001.mp4 has 39 frames, its episodes have 40 rows")
    assert "episode_000004.mp4 cannot be read as a video" in unreadable[2]
    assert pictures[0] == "pictures"
    assert "it lies at 'data/chunk-007/episode_000001.parquet'; other readers will not find it" in moved[2]


def test_names_of_dims_are_found_in_the_forms_that_datasets_have_them():
    for names in (["a", "b"], [["a", "b"]], {"motors": ["a", "b"]}):
        assert dim_names({"shape": [2], "names": names}) == ["a", "b"]
    for names in (None, ["a"], {}):
        assert dim_names({"shape": [2], "names": names}) == ["", ""]


def test_the_summary_of_a_real_set():
    summary = summarise(open_dataset(ASSETS / "lerobot_v21"))
    assert (summary.format, summary.robot_type, summary.fps) == ("LeRobotDataset v2.1", "Unitree_G1_Inspire", 30)
    assert (summary.num_episodes, summary.num_frames, summary.lengths) == (2, 80, (40, 40, 40))
    assert summary.tasks == {"Pick up the yellow bottle on the table.": 2}
    assert summary.rate == pytest.approx(30, rel=1e-3)
    values = open_dataset(ASSETS / "lerobot_v21").column("action")
    assert summary.numbers["action"]["max"] == pytest.approx(values.max(axis=0).tolist())


def test_the_command_prints_tables_and_writes_figures(tmp_path, capsys):
    main([str(ASSETS / "bridge_mini"), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    for part in ("RLDS", "not stated", "2 of 10 to 10 frames", "turn lever vertical to front", "512 dims"):
        assert part in printed, part
    assert "10 of 10 are of one colour" in printed
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["summary"]["num_frames"] == 20
    assert {problem["where"] for problem in report["problems"]} == {"action", "observation.image_3"}
    with PillowImage.open(tmp_path / "out/observation.image_0.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    dataset = open_dataset(ASSETS / "bridge_mini")
    for row, column in ((0, 0), (1, 6)):  # first frame of the first, last of the second episode; twice as large
        top, left = row * (128 + 22) + 18, column * 132
        shown = pixels[top : top + 128 : 2, left : left + 128 : 2]
        assert (shown == dataset.frame(row, (0, 9)[row])["observation.image_0"]).all()
    for name in ("lengths", "action", "observation.state"):
        with PillowImage.open(tmp_path / f"out/{name}.png") as figure:
            assert np.asarray(figure.convert("L")).std() > 5


def test_what_cannot_be_inspected_ends_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"error: root .*nothing' does not exist"):
        main([str(tmp_path / "nothing")])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the datasets are not here")
def test_problems_of_real_sets_are_those_that_are_known():
    found = {name: problems(SHARED / name) for name in ("g1_bottle", "bridge_mini", "adroit_door", "gr1_pick_place")}
    assert found["g1_bottle"] == []
    assert [p[:2] for p in found["bridge_mini"]] == [("pictures", "observation.image_3")]
    assert [p[:2] for p in found["adroit_door"]] == [("instructions", "task")]
    assert [p[:2] for p in found["gr1_pick_place"]] == [
        ("constant", "observation.state"),
        ("constant", "action"),
        ("timestamps", "timestamp"),
        ("instructions", "task"),
        ("files", "data_path"),
    ]
