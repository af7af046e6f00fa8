"""LeRobotDataset v3.0: what is written is read back exactly, and what cannot be stored is refused by name."""

import errno
import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image as PillowImage

from data.lerobot import LeRobotDataset, LeRobotWriter, LeRobotWriterV21, decode_png, encode_png
from data.lerobot.clips import some_frames

FEATURES = {
    "observation.images.front": {"dtype": "image", "shape": [8, 10, 3], "names": ["height", "width", "channels"]},
    "observation.state": {"dtype": "float32", "shape": [5], "names": None},
    "action": {"dtype": "float32", "shape": [3], "names": ["x", "y", "gripper"]},
    "success": {"dtype": "bool", "shape": [1], "names": None},
    "annotation.points": {"dtype": "string", "shape": [1], "names": None},
}


def episode_of(length, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "observation.images.front": list(rng.integers(0, 256, size=(length, 8, 10, 3)).astype(np.uint8)),
        "observation.state": rng.normal(size=(length, 5)).astype(np.float32),
        "action": rng.normal(size=(length, 3)).astype(np.float32),
        "success": rng.integers(0, 2, size=length).astype(bool),
        "annotation.points": [f'[{{"label": "cube {t}", "point": [{t}, 500]}}]' for t in range(length)],
    }


def write(root, lengths, **options):
    with LeRobotWriter(root, 10, FEATURES, "arm6", **options) as writer:
        for seed, length in enumerate(lengths):
            writer.add_episode(episode_of(length, seed), f"task {seed % 2}")
    return root


def test_everything_written_is_read_back_exactly(tmp_path):
    lengths = [4, 1, 6]
    dataset = LeRobotDataset(write(tmp_path / "set", lengths))
    assert dataset.episode_lengths.tolist() == lengths
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (3, 11, 10)
    assert [dataset.episode_task(i) for i in range(3)] == ["task 0", "task 1", "task 0"]
    for seed, length in enumerate(lengths):
        expected = episode_of(length, seed)
        for step in range(length):
            frame = dataset.frame(seed, step)
            for name in FEATURES:
                assert np.array_equal(np.squeeze(frame[name]), np.squeeze(expected[name][step])), (seed, step, name)
            assert frame["timestamp"] == np.float32(step / 10)


def test_png_bytes_are_stored_untouched(tmp_path):
    frames = episode_of(3)
    encoded = [encode_png(pixels) for pixels in frames["observation.images.front"]]
    with LeRobotWriter(tmp_path / "set", 10, FEATURES, "arm6") as writer:
        writer.add_episode(frames | {"observation.images.front": encoded}, "reach")
    table = pq.read_table(tmp_path / "set/data/chunk-000/file-000.parquet")
    assert [image["bytes"] for image in table["observation.images.front"].to_pylist()] == encoded


def test_the_files_are_laid_out_as_version_3_0_says(tmp_path):
    root = write(tmp_path / "set", [4, 2, 3])
    assert sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()) == [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
    ]
    info = json.loads((root / "meta/info.json").read_text())
    totals = {key: info[key] for key in ("codebase_version", "total_episodes", "total_frames", "total_tasks", "splits")}
    assert totals == {
        "codebase_version": "v3.0",
        "total_episodes": 3,
        "total_frames": 9,
        "total_tasks": 2,
        "splits": {"train": "0:3"},
    }
    assert list(info["features"]) == [*FEATURES, "timestamp", "frame_index", "episode_index", "index", "task_index"]
    rows = pq.read_table(root / "data/chunk-000/file-000.parquet")
    assert rows["index"].to_pylist() == list(range(9))
    assert rows["episode_index"].to_pylist() == [0] * 4 + [1] * 2 + [2] * 3
    assert rows["frame_index"].to_pylist() == [0, 1, 2, 3, 0, 1, 0, 1, 2]
    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in episodes] == [(0, 4), (4, 6), (6, 9)]
    assert pq.ParquetFile(root / "data/chunk-000/file-000.parquet").num_row_groups == 3


def test_stats_are_those_of_all_frames_and_of_each_episode(tmp_path):
    lengths = [5, 3]
    root = write(tmp_path / "set", lengths)
    stats = json.loads((root / "meta/stats.json").read_text())
    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    actions = [episode_of(length, seed)["action"].astype(np.float64) for seed, length in enumerate(lengths)]
    both = np.concatenate(actions)
    np.testing.assert_allclose(stats["action"]["q90"], np.percentile(both, 90, axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats["action"]["std"], both.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(episodes[1]["stats/action/mean"], actions[1].mean(axis=0), rtol=1e-12)
    images = np.concatenate([episode_of(n, s)["observation.images.front"] for s, n in enumerate(lengths)]) / 255
    found = stats["observation.images.front"]
    assert np.shape(found["mean"]) == (3, 1, 1)
    np.testing.assert_allclose(np.ravel(found["mean"]), images.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(np.ravel(found["std"]), images.std(axis=(0, 1, 2)), rtol=1e-9)
    median = np.quantile(images, 0.5, axis=(0, 1, 2), method="inverted_cdf")
    np.testing.assert_allclose(np.ravel(found["q50"]), median, rtol=1e-9)
    assert set(found) == {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}


def test_a_full_file_is_followed_by_another(tmp_path):
    root = write(tmp_path / "set", [3, 4, 5], data_file_mb=1e-6)
    assert len(list((root / "data").rglob("*.parquet"))) == 3
    dataset = LeRobotDataset(root)
    assert (dataset.frame(2, 4)["action"] == episode_of(5, 2)["action"][4]).all()
    assert (dataset.frame(1, 3)["observation.images.front"] == episode_of(4, 1)["observation.images.front"][3]).all()


def bad_episode(name, value, frame=None):
    frames = episode_of(3)
    if frame is None:
        frames[name] = value
    else:
        frames[name] = list(frames[name])
        frames[name][frame] = value
    return frames


def grey_png():
    buffer = io.BytesIO()
    PillowImage.new("L", (10, 8)).save(buffer, "PNG")
    return buffer.getvalue()


FRONT = "observation.images.front"


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (episode_of(0), "episode 1: it has no frames"),
        (bad_episode("action", np.zeros((2, 3), np.float32)), "episode 1: features differ in length.*'action': 2"),
        (
            bad_episode("action", np.zeros((3, 4), np.float32)),
            r"episode 1, feature 'action', frame 0: shape \(4,\), dec",
        ),
        (bad_episode("action", np.zeros(4, np.float32), 2), r"'action', frame 2: shape \(4,\), declared \(3,\)"),
        (bad_episode("action", np.array([0, np.nan, 0], "f"), 1), "'action', frame 1: dim 1 is nan; drop the frame"),
        (bad_episode("observation.state", np.full(5, np.inf), 2), "'observation.state', frame 2: dim 0 is inf"),
        (bad_episode("success", np.full(3, 0.5)), "'success': dtype float64 does not convert to bool"),
        (bad_episode(FRONT, np.zeros((9, 10, 3), np.uint8), 1), r"frame 1: shape \(9, 10, 3\), declared \(8, 10, 3\)"),
        (bad_episode(FRONT, np.zeros((8, 10, 3)), 1), "frame 1: dtype float64; give uint8"),
        (bad_episode(FRONT, encode_png(np.zeros((4, 4, 3), np.uint8)), 2), r"frame 2: shape \(4, 4, 3\), declared"),
        (bad_episode(FRONT, b"no picture", 0), "frame 0: the bytes are not a complete PNG file"),
        (bad_episode(FRONT, encode_png(np.zeros((8, 10, 3), np.uint8))[:-5], 0), "frame 0: .*not a complete PNG"),
        (bad_episode(FRONT, grey_png(), 0), "frame 0: .*colour type 0; 8-bit RGB is needed"),
        (bad_episode("annotation.points", 7, 1), "'annotation.points', frame 1: int given; give a string"),
        ({k: v for k, v in episode_of(3).items() if k != "action"}, r"features missing \['action'\], unknown \[\]"),
        (episode_of(3) | {"reward": [0, 0, 0]}, r"unknown \['reward'\]"),
    ],
)
def test_a_bad_episode_is_refused_by_name_and_leaves_the_dataset_good(tmp_path, frames, message):
    with LeRobotWriter(tmp_path / "set", 10, FEATURES, "arm6") as writer:
        writer.add_episode(episode_of(2), "reach")
        with pytest.raises(ValueError, match=message):
            writer.add_episode(frames, "reach")
    assert LeRobotDataset(tmp_path / "set").episode_lengths.tolist() == [2]


def test_an_empty_instruction_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match="episode 0: task is ' '"),
        LeRobotWriter(tmp_path / "s", 10, FEATURES, "a") as w,
    ):
        w.add_episode(episode_of(2), " ")


def test_frames_of_one_episode_may_carry_several_instructions(tmp_path):
    for writer_class in (LeRobotWriter, LeRobotWriterV21):
        root = tmp_path / writer_class.__name__
        with writer_class(root, 10, FEATURES, "a") as writer:
            writer.add_episode(episode_of(2), "open")
            writer.add_episode(episode_of(4), ["reach", "reach", "open", "lift"])
            with pytest.raises(ValueError, match="episode 2: 3 tasks for 4 frames; give one, or one for each frame"):
                writer.add_episode(episode_of(4), ["a", "b", "c"])
        dataset = LeRobotDataset(root)
        assert [dataset.frame_task(1, step) for step in range(4)] == ["reach", "reach", "open", "lift"]
        assert dataset.episodes[1].tasks == ("reach", "open", "lift")
        assert dataset.tasks == {0: "open", 1: "reach", 2: "lift"}


VIDEO = pathlib.Path(__file__).parents[1] / "assets/lerobot_v21/videos/chunk-000/observation.images.cam_high"
FILMED = {
    "top": {"dtype": "video", "shape": [120, 160, 3], "names": None},
    "action": {"dtype": "float32", "shape": [2], "names": None},
}


@pytest.mark.parametrize("writer_class", [LeRobotWriter, LeRobotWriterV21])
def test_videos_are_copied_as_they_are_and_read_back(tmp_path, writer_class):
    files = sorted(VIDEO.iterdir())
    with writer_class(tmp_path / "set", 30, FILMED, "g1") as writer:
        for number, path in enumerate(files):
            writer.add_episode({"action": np.full((40, 2), number, "f4")}, "pick", {"top": path})
    dataset = LeRobotDataset(tmp_path / "set")
    for number, path in enumerate(files):
        assert dataset.episodes[number].videos["top"].path.read_bytes() == path.read_bytes()
    pixels = dataset.frame(1, 39)["top"]
    assert (pixels == some_frames(files[1], [39])[0]).all()
    assert dataset.features["top"]["info"] == {
        "video.height": 120,
        "video.width": 160,
        "video.codec": "h264",
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": 30.0,
        "video.channels": 3,
        "has_audio": False,
    }
    if writer_class is LeRobotWriter:
        rows = pq.read_table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet").to_pylist()
        assert (rows[1]["videos/top/file_index"], rows[1]["videos/top/from_timestamp"]) == (1, 0.0)
        np.testing.assert_allclose(rows[1]["videos/top/to_timestamp"], 40 / 30)
        sampled = np.stack(some_frames(files[1], [0, 6, 11, 17, 22, 28, 33, 39])) / 255
        np.testing.assert_allclose(np.ravel(rows[1]["stats/top/mean"]), sampled.mean(axis=(0, 1, 2)), rtol=1e-9)


@pytest.mark.parametrize(
    ("length", "videos", "message"),
    [
        (39, {"top": "episode_000001.mp4"}, r"feature 'top': .*episode_000001\.mp4 has 40 frames, the episode 39"),
        (40, {}, r"videos of \[\]; give one for each of \['top'\]"),
        (40, {"top": "nothing.mp4"}, r"nothing\.mp4 cannot be read as a video"),
        (39, {"top": "small.mp4"}, r"has frames \(48, 64, 3\), declared \(120, 160, 3\)"),
    ],
)
def test_a_video_that_does_not_go_with_its_episode_is_refused(tmp_path, length, videos, message):
    small = VIDEO.parents[3] / "lerobot_v30/videos/observation.images.wrist/chunk-000/file-000.mp4"
    paths = {name: small if path == "small.mp4" else VIDEO / path for name, path in videos.items()}
    with LeRobotWriter(tmp_path / "set", 30, FILMED, "g1") as writer:
        writer.add_episode({"action": np.zeros((40, 2), "f4")}, "pick", {"top": VIDEO / "episode_000001.mp4"})
        with pytest.raises(ValueError, match=message):
            writer.add_episode({"action": np.zeros((length, 2), "f4")}, "pick", paths)
    assert LeRobotDataset(tmp_path / "set").num_episodes == 1


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({}, "features: empty"),
        ({"top": FILMED["top"]}, r"features: \['top'\] are videos alone"),
        ({"index": {"dtype": "int64", "shape": [1]}}, "'index': the name is reserved"),
        ({"action": {"shape": [1]}}, "'dtype'.* missing"),
        ({"action": {"dtype": "complex64", "shape": [1]}}, "dtype 'complex64' cannot be written; allowed are"),
        ({"action": {"dtype": "float32", "shape": [2, 3]}}, r"shape \[2, 3\] does not suit"),
        ({"front": {"dtype": "image", "shape": [3, 64, 64]}}, r"images are \[height, width, 3\]"),
    ],
)
def test_features_that_cannot_be_written_are_refused(tmp_path, features, message):
    with pytest.raises(ValueError, match=message):
        LeRobotWriter(tmp_path / "set", 10, features, "arm6")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_only_taken_when_empty(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    write(root, [2])
    with pytest.raises(ValueError, match="is not an empty folder; choose another root"):
        LeRobotWriter(root, 10, FEATURES, "arm6")


def test_a_dataset_without_episodes_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="no episode was added"), LeRobotWriter(tmp_path / "set", 10, FEATURES, "arm6"):
        pass
    assert not list(tmp_path.iterdir())


def test_an_exception_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), LeRobotWriter(tmp_path / "set", 10, FEATURES, "arm6") as writer:
        writer.add_episode(episode_of(2 + 1 // 0), "reach")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    writer = LeRobotWriter(tmp_path / "set", 10, FEATURES, "arm6")
    writer.add_episode(episode_of(2), "reach")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(OSError, match="No space left"):
            writer.add_episode(episode_of(2), "reach")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="the writer is closed"):
        writer.add_episode(episode_of(2), "reach")


def test_a_closed_writer_takes_no_more(tmp_path):
    writer = LeRobotWriter(tmp_path / "set", 10, FEATURES, "arm6")
    writer.add_episode(episode_of(2), "reach")
    writer.close()
    with pytest.raises(ValueError, match="the writer is closed"):
        writer.add_episode(episode_of(2), "reach")


def test_a_killed_writer_leaves_no_dataset(tmp_path):
    here = pathlib.Path(__file__)
    program = f"""
import importlib.util, os, signal
spec = importlib.util.spec_from_file_location("specification", {str(here)!r})
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
writer = module.LeRobotWriter({str(tmp_path / "set")!r}, 10, module.FEATURES, "arm6", data_file_mb=1e-6)
for seed in range(3):
    writer.add_episode(module.episode_of(4, seed), "reach")
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=here.parents[2], check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "set").exists()
    for left in tmp_path.iterdir():
        with pytest.raises(ValueError, match=r"info\.json is missing"):
            LeRobotDataset(left)
    write(tmp_path / "set", [2])


def test_png_round_trip_is_exact():
    pixels = np.random.default_rng(0).integers(0, 256, size=(7, 5, 3)).astype(np.uint8)
    assert (decode_png(encode_png(pixels)) == pixels).all()
