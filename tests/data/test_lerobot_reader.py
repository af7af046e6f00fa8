"""Reading LeRobot datasets: real v2.1, v3.0 as LeRobot itself writes it, and what can be wrong with the files."""

import concurrent.futures
import json
import pathlib
import pickle
import shutil

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.elements import CorruptRecord
from data.lerobot import LeRobotDataset, LeRobotWriter
from data.lerobot.video import VideoFrames

ASSETS = pathlib.Path(__file__).parents[1] / "assets"
V21, V30 = ASSETS / "lerobot_v21", ASSETS / "lerobot_v30"
SHARED = pathlib.Path(__file__).parents[2] / "../shared/data"
CAMERA = "observation.images.cam_high"


@pytest.fixture
def copy(tmp_path):
    """Makes a writable copy of a dataset, to be broken."""

    def make(source):
        for path in [shutil.copytree(source, tmp_path / "copy"), *(tmp_path / "copy").rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        return tmp_path / "copy"

    return make


@pytest.fixture
def written(tmp_path):
    features = {
        "front": {"dtype": "image", "shape": [4, 6, 3], "names": None},
        "action": {"dtype": "float32", "shape": [2], "names": None},
    }
    with LeRobotWriter(tmp_path / "set", 5, features, "arm") as writer:
        for episode in range(3):
            images = [np.full((4, 6, 3), 10 * episode + t, np.uint8) for t in range(4)]
            writer.add_episode({"front": images, "action": np.full((4, 2), episode, np.float32)}, "reach")
    return tmp_path / "set"


def edit_info(root, **changes):
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_real_v21_dataset_is_read_with_the_gaps_in_its_episode_numbers():
    dataset = LeRobotDataset(V21)
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (2, 80, 30)
    assert [episode.number for episode in dataset.episodes] == [1, 4]
    assert dataset.episode_task(1) == "Pick up the yellow bottle on the table."
    table = pq.read_table(V21 / "data/chunk-000/episode_000004.parquet").to_pylist()
    for step in (0, 17, 39):
        frame = dataset.frame(1, step, ["action", "observation.state", "timestamp"])
        assert frame["action"].tolist() == table[step]["action"]
        assert frame["observation.state"].tolist() == table[step]["observation.state"]
        assert frame["timestamp"] == np.float32(table[step]["timestamp"])


def test_a_video_frame_is_the_one_of_its_row_in_any_order_of_access():
    dataset = LeRobotDataset(V21)
    with av.open(str(V21 / "videos/chunk-000" / CAMERA / "episode_000001.mp4")) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for step in [0, 1, 2, 39, 38, 5, 5, 20, 0, *np.random.default_rng(0).permutation(40)]:
        assert (dataset.frame(0, int(step), [CAMERA])[CAMERA] == expected[step]).all(), step


def test_v30_as_lerobot_writes_it_is_read_with_png_and_av1():
    dataset = LeRobotDataset(V30)
    assert dataset.episode_lengths.tolist() == [12, 13, 14]
    assert [dataset.episode_task(i) for i in range(3)] == ["task 0", "task 1", "task 0"]
    for episode in range(3):
        for step in range(dataset.episode_lengths[episode]):
            frame = dataset.frame(episode, step)
            colour = (15 * step, 60 * episode, 128)
            assert (frame["observation.images.front"] == colour).all()
            assert np.abs(frame["observation.images.wrist"].astype(int) - colour).max() < 12
            assert frame["note"] == f"n{step}"
            assert frame["gripper"] == np.float32(step / 10)


def test_our_statistics_agree_with_those_lerobot_stored():
    dataset = LeRobotDataset(V30)
    stored = json.loads((V30 / "meta/stats.json").read_text())["action"]
    actions = dataset.column("action").astype(np.float64)
    for name, found in {"mean": actions.mean(0), "std": actions.std(0), "max": actions.max(0)}.items():
        np.testing.assert_allclose(stored[name], found, rtol=1e-5)


def test_columns_are_read_whole_in_episode_order(written):
    dataset = LeRobotDataset(written)
    assert dataset.column("action")[:, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.column("action") is dataset.column("action")


def test_images_need_not_fit_into_the_cache(written):
    dataset = LeRobotDataset(written, cache_mb=0)
    for episode, step in [(2, 3), (0, 0), (1, 2), (2, 0)]:
        assert (dataset.frame(episode, step)["front"] == 10 * episode + step).all()


def test_many_threads_read_what_one_thread_reads():
    small, video = LeRobotDataset(V30, cache_mb=0.001), LeRobotDataset(V21)
    places = [(i % 3, i % 12) for i in range(60)]

    def read(place):
        frame = small.frame(*place)
        return frame["observation.images.front"].tobytes() + frame["observation.images.wrist"].tobytes()

    alone = [read(place) for place in places]
    steps = [int(s) for s in np.random.default_rng(1).integers(0, 40, 60)]
    alone_video = [video.frame(0, step, [CAMERA])[CAMERA].tobytes() for step in steps]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, places)) == alone
        assert list(pool.map(lambda s: video.frame(0, s, [CAMERA])[CAMERA].tobytes(), steps)) == alone_video


def test_a_pickled_dataset_reads_the_same(written):
    dataset = LeRobotDataset(written)
    assert (pickle.loads(pickle.dumps(dataset)).frame(1, 2)["front"] == dataset.frame(1, 2)["front"]).all()


@pytest.mark.parametrize("version", ["v1.6", "v4.0", None])
def test_another_version_is_refused(copy, version):
    root = copy(V21)
    edit_info(root, codebase_version=version)
    with pytest.raises(ValueError, match=f"codebase_version is {version!r}; v3.0, v2.1 and v2.0 can be read"):
        LeRobotDataset(root)


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"meta/info\.json is missing"):
        LeRobotDataset(tmp_path)


@pytest.mark.parametrize("path", ["meta/episodes.jsonl", "meta/tasks.jsonl", "data/chunk-000/episode_000004.parquet"])
def test_a_missing_file_is_named(copy, path):
    root = copy(V21)
    (root / path).unlink()
    with pytest.raises(ValueError, match=f"{path} is missing"):
        LeRobotDataset(root)


def test_what_is_broken_is_left_out_where_a_report_is_asked_for(copy):
    root, problems = copy(V21), []
    (root / "data/chunk-000/episode_000001.parquet").write_bytes(b"PAR1")
    dataset = LeRobotDataset(root, report=problems.append)
    assert [episode.number for episode in dataset.episodes] == [4]
    assert (dataset.column("action") == LeRobotDataset(V21).column("action")[40:]).all()
    assert (dataset.frame(0, 7)[CAMERA] == LeRobotDataset(V21).frame(1, 7)[CAMERA]).all()
    assert len(problems) == 1
    assert "episode_000001.parquet cannot be read as parquet" in problems[0]
    (root / "data/chunk-000/episode_000004.parquet").unlink()
    with pytest.raises(ValueError, match="no episode can be read"):
        LeRobotDataset(root, report=problems.append)


def test_files_in_another_chunk_folder_are_found_where_one_alone_fits(copy):
    root = copy(V21)
    (root / "data/chunk-000").rename(root / "data/chunk-007")
    (root / "videos/chunk-000").rename(root / "videos/chunk-007")
    dataset = LeRobotDataset(root)
    assert (dataset.frame(1, 30)[CAMERA] == LeRobotDataset(V21).frame(1, 30)[CAMERA]).all()
    shutil.copytree(root / "data/chunk-007", root / "data/chunk-008")
    with pytest.raises(ValueError, match=r"chunk-000/episode_000001\.parquet is missing"):
        LeRobotDataset(root)


def test_pictures_belong_to_rows_also_where_timestamps_do_not_begin_at_zero(copy):
    root = copy(V21)
    for path in (root / "data/chunk-000").iterdir():
        table = pq.read_table(path)
        later = pa.array([t + 1 / 30 for t in table["timestamp"].to_pylist()], table.schema.field("timestamp").type)
        pq.write_table(table.set_column(table.schema.get_field_index("timestamp"), "timestamp", later), path)
    for step in (0, 17, 39):
        assert (LeRobotDataset(root).frame(0, step)[CAMERA] == LeRobotDataset(V21).frame(0, step)[CAMERA]).all()


@pytest.mark.parametrize(
    "path", ["data/chunk-000/file-000.parquet", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"]
)
def test_a_truncated_parquet_file_is_named(copy, path):
    root = copy(V30)
    data = (root / path).read_bytes()
    (root / path).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=f"{path} cannot be read as parquet"):
        LeRobotDataset(root)


def test_broken_metadata_lines_are_named(copy):
    root = copy(V21)
    with (root / "meta/episodes.jsonl").open("a") as file:
        file.write('{"episode_index": 5,\n')
    with pytest.raises(ValueError, match=r"episodes\.jsonl line 3 is not JSON"):
        LeRobotDataset(root)


def test_metadata_that_promises_other_frames_is_refused(copy):
    root = copy(V21)
    edit_info(root, total_frames=81)
    with pytest.raises(ValueError, match=r"2 episodes and 80 frames, info\.json says 2 and 81"):
        LeRobotDataset(root)
    edit_info(root, total_frames=80)
    lines = (root / "meta/episodes.jsonl").read_text()
    (root / "meta/episodes.jsonl").write_text(lines.replace('"length": 40', '"length": 41', 1))
    edit_info(root, total_frames=81)
    with pytest.raises(ValueError, match=r"episode_000001\.parquet holds 40 frames, the metadata promises 41"):
        LeRobotDataset(root)


def test_an_episode_without_frames_is_refused(copy):
    root = copy(V21)
    with (root / "meta/episodes.jsonl").open("a") as file:
        file.write('{"episode_index": 5, "tasks": ["a"], "length": 0}\n')
    edit_info(root, total_episodes=3)
    with pytest.raises(ValueError, match="episode 5 has length 0; remove it"):
        LeRobotDataset(root)


def test_a_missing_column_is_named(copy):
    root = copy(V21)
    path = root / "data/chunk-000/episode_000001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["action"]), path)
    with pytest.raises(ValueError, match=r"episode_000001\.parquet: columns \['action'\] of info\.json are missing"):
        LeRobotDataset(root)


def test_numbers_of_higher_rank_are_read_flat_and_pictures_may_be_declared_channels_first(copy):
    root = copy(V21)
    for path in (root / "data/chunk-000").iterdir():
        table = pq.read_table(path)
        rows = np.array(table["action"].to_pylist()).reshape(-1, 2, 13)
        place = table.schema.get_field_index("action")
        pq.write_table(
            table.set_column(place, "action", pa.array(rows.tolist(), pa.list_(pa.list_(pa.float32())))), path
        )
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features["action"] |= {"shape": [2, 13]}
    features[CAMERA] |= {"shape": [3, 120, 160], "names": ["channels", "height", "width"]}
    edit_info(root, features=features)
    dataset, plain = LeRobotDataset(root), LeRobotDataset(V21)
    assert (dataset.column("action") == plain.column("action")).all()
    assert dataset.features["action"]["shape"] == [26]
    assert (dataset.frame(1, 5)[CAMERA] == plain.frame(1, 5)[CAMERA]).all()


def test_a_robot_without_cameras_has_no_pictures():
    assert LeRobotDataset(V21).frame(0, 0, ()) == {}


def test_an_unknown_feature_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"no feature 'reward'; it has .*'action'"):
        LeRobotDataset(V21).frame(0, 0, ["reward"])


def test_a_frame_outside_the_episode_is_an_index_error():
    with pytest.raises(IndexError, match="no frame 40 in episode 0"):
        LeRobotDataset(V21).frame(0, 40)


def break_image(root, damage):
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    name = "front"
    rows = table[name].to_pylist()
    rows[6]["bytes"] = damage(rows[6]["bytes"])
    position = table.schema.get_field_index(name)
    pq.write_table(table.set_column(position, name, pa.array(rows, table.schema.field(name).type)), path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:40], "image bytes cannot be decoded"),
        (lambda data: b"not a picture", "image bytes cannot be decoded"),
        (lambda data: data[:45] + bytes(8) + data[53:], "image bytes cannot be decoded"),
        (lambda data: None, "no image bytes are stored"),
    ],
)
def test_a_broken_png_spoils_its_frame_alone(written, damage, message):
    break_image(written, damage)
    dataset = LeRobotDataset(written)
    with pytest.raises(CorruptRecord, match=rf"file-000\.parquet: episode 1 frame 2, feature 'front': {message}"):
        dataset.frame(1, 2)
    assert (dataset.frame(1, 3)["front"] == 13).all()


def test_flipped_bits_in_a_data_page_are_noticed(written):
    path = written / "data/chunk-000/file-000.parquet"
    place = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[place + 120] ^= 0xFF
    path.write_bytes(data)
    dataset = LeRobotDataset(written)
    for _ in range(2):
        with pytest.raises(CorruptRecord, match="episode 1 frame 0, feature 'front': row group 1 cannot be read"):
            dataset.frame(1, 0)
        assert (dataset.frame(0, 0)["front"] == 0).all()


def test_an_image_of_another_size_than_promised_is_a_corrupt_record(written):
    info = json.loads((written / "meta/info.json").read_text())
    info["features"]["front"]["shape"] = [8, 6, 3]
    edit_info(written, features=info["features"])
    with pytest.raises(CorruptRecord, match=r"shape \[4, 6, 3\], info\.json says \[8, 6, 3\]"):
        LeRobotDataset(written).frame(0, 0)


def test_a_missing_or_broken_video_spoils_its_frames_alone(copy):
    root = copy(V21)
    first, second = sorted((root / "videos").rglob("*.mp4"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:2000])
    dataset = LeRobotDataset(root)
    with pytest.raises(CorruptRecord, match=r"episode 1 frame 3, .*the video file is missing"):
        dataset.frame(0, 3)
    with pytest.raises(CorruptRecord, match=r"episode 4 frame 3, .*episode_000004\.mp4: no frame at 0\.1"):
        dataset.frame(1, 3)
    assert dataset.frame(0, 3, ["action"])["action"].shape == (26,)


def test_a_time_without_a_frame_is_a_corrupt_record_and_the_file_stays_usable():
    videos = VideoFrames(fps=30)
    path = V21 / "videos/chunk-000" / CAMERA / "episode_000001.mp4"
    with pytest.raises(CorruptRecord, match=r"no frame at 9\.0000 s .*the video ends before"):
        videos.read(path, 9.0)
    assert (videos.read(path, 0.0) == LeRobotDataset(V21).frame(0, 0, [CAMERA])[CAMERA]).all()


needs_g1 = pytest.mark.skipif(not (SHARED / "g1_bottle").is_dir(), reason="the whole dataset is not here")


@needs_g1
def test_the_whole_g1_dataset_is_read():
    dataset = LeRobotDataset(SHARED / "g1_bottle")
    assert (dataset.num_episodes, dataset.num_frames) == (20, 7182)
    assert dataset.column("action").shape == (7182, 26)
    assert np.isfinite(dataset.column("observation.state")).all()
    for episode in range(20):
        frame = dataset.frame(episode, int(dataset.episode_lengths[episode]) - 1)
        assert frame[CAMERA].shape == (120, 160, 3)
    cut = LeRobotDataset(V21)
    assert (dataset.column("action")[:40] == cut.column("action")[:40]).all()
    assert (dataset.frame(2, 30)[CAMERA] == cut.frame(1, 30)[CAMERA]).all()


@needs_g1
def test_an_untouched_av1_video_is_decoded_by_time():
    path = SHARED / "g1_bottle/original_av1_640x480/episode_000029.mp4"
    videos = VideoFrames(fps=30)
    with av.open(str(path)) as container:
        expected = [
            frame.to_ndarray(format="rgb24") for _, frame in zip(range(60), container.decode(video=0), strict=False)
        ]
    for step in (0, 59, 3, 41, 42):
        assert (videos.read(path, step / 30) == expected[step]).all()


@pytest.mark.skipif(not (SHARED / "gr1_pick_place").is_dir(), reason="the dataset is not here")
def test_a_real_v20_dataset_with_missing_files_is_refused_or_read_without_them():
    with pytest.raises(ValueError, match=r"episode_000004\.parquet is missing; copy the dataset again"):
        LeRobotDataset(SHARED / "gr1_pick_place")
    problems = []
    dataset = LeRobotDataset(SHARED / "gr1_pick_place", report=problems.append)
    assert (dataset.num_episodes, dataset.num_frames) == (4, 1768)
    assert len(problems) == 2
    assert "no video of 'observation.images.egoview' is there" in problems[0]
    assert "episode_000004.mp4: the video file is missing" in problems[1]
    assert dataset.frame_task(1, 0) == "pick the sweet potato from the counter and place it in the plate"
