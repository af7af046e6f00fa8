"""Conversion between formats: numbers, pictures and instructions are those of the source, frame by frame."""

import json
import pathlib
import shutil

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from data.convert import main
from data.datasets import open_dataset
from data.lerobot import LeRobotDataset, layout
from data.lerobot.clips import count_frames, cut

ASSETS = pathlib.Path(__file__).parents[1] / "assets"
BRIDGE, V21, V30 = ASSETS / "bridge_mini", ASSETS / "lerobot_v21", ASSETS / "lerobot_v30"
CAMERA = "observation.images.cam_high"


def same(a, b, names, rename=None):
    assert a.episode_lengths.tolist() == b.episode_lengths.tolist()
    for episode in range(a.num_episodes):
        for step in range(a.episode_lengths[episode]):
            first, second = a.frame(episode, step, names), b.frame(episode, step)
            for name in names:
                assert np.array_equal(first[name], second[(rename or {}).get(name, name)]), (episode, step, name)
            assert a.frame_task(episode, step) == b.frame_task(episode, step)


def test_rlds_becomes_lerobot_v30(tmp_path, capsys):
    rename = {"observation.image_0": "observation.images.front", "is_last": "next.done"}
    pairs = [f"{old}={new}" for old, new in rename.items()]
    dropped = ["language_embedding", "observation.image_3"]
    main([str(BRIDGE), str(tmp_path / "out"), "--to", "lerobot3", "--fps", "5", "--drop", *dropped, "--rename", *pairs])
    assert "out: v3.0, 2 episodes, 20 frames" in capsys.readouterr().out
    source, written = open_dataset(BRIDGE), LeRobotDataset(tmp_path / "out")
    assert (written.fps, written.robot_type) == (5, "bridge_mini")
    names = sorted(set(source.features) - set(dropped))
    assert {rename.get(name, name) for name in names} == set(written.features) - set(layout.INDEX_FEATURES)
    same(source, written, names, rename)
    assert written.column("timestamp")[:11, 0].tolist() == [np.float32(t / 5) for t in (*range(10), 0)]


def test_v21_becomes_v30_and_v21_again_with_its_videos_untouched(tmp_path):
    main([str(V21), str(tmp_path / "v3"), "--to", "lerobot3"])
    main([str(tmp_path / "v3"), str(tmp_path / "v2"), "--to", "lerobot21"])
    first, *others = (LeRobotDataset(root) for root in (V21, tmp_path / "v3", tmp_path / "v2"))
    videos = [[episode.videos[CAMERA].path.read_bytes() for episode in d.episodes] for d in (first, *others)]
    assert videos[0] == videos[1] == videos[2]
    for dataset in others:
        same(first, dataset, ["action", "observation.state", CAMERA])
    assert [episode.number for episode in others[1].episodes] == [0, 1]  # without the gaps of the source


def test_v30_as_lerobot_writes_it_becomes_v21_with_one_video_an_episode(tmp_path):
    """All episodes share one AV1 file there; its packets are cut, not encoded again."""
    main([str(V30), str(tmp_path / "v2"), "--to", "lerobot21"])
    source, written = LeRobotDataset(V30), LeRobotDataset(tmp_path / "v2")
    same(source, written, sorted(set(source.features) - {"index"}))
    camera = "observation.images.wrist"
    paths = [episode.videos[camera].path for episode in written.episodes]
    assert [count_frames(path) for path in paths] == [12, 13, 14]

    def packets(path):
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(video=0) if packet.size]

    assert [packet for path in paths for packet in packets(path)] == packets(source.episodes[0].videos[camera].path)


def test_the_layout_of_v21_is_the_one_its_readers_expect(tmp_path):
    main([str(V30), str(tmp_path / "v2"), "--to", "lerobot21"])
    root, real = tmp_path / "v2", json.loads((V21 / "meta/info.json").read_text())
    info = json.loads((root / "meta/info.json").read_text())
    assert set(real) <= set(info)
    for name in ("codebase_version", "data_path", "video_path", "chunks_size"):
        assert info[name] == real[name]
    assert (info["total_episodes"], info["total_frames"], info["total_videos"], info["total_chunks"]) == (3, 39, 3, 1)
    meta = {
        name: [json.loads(line) for line in (root / f"meta/{name}.jsonl").read_text().splitlines()]
        for name in ("episodes", "tasks", "episodes_stats")
    }
    assert meta["episodes"][1] == {"episode_index": 1, "tasks": ["task 1"], "length": 13}
    assert meta["tasks"] == [{"task_index": 0, "task": "task 0"}, {"task_index": 1, "task": "task 1"}]
    stats, action = meta["episodes_stats"][1]["stats"], LeRobotDataset(V30).column("action")[12:25].astype("f8")
    assert set(stats["action"]) == {"min", "max", "mean", "std", "count"}
    np.testing.assert_allclose(stats["action"]["mean"], action.mean(0), rtol=1e-6)
    assert np.shape(stats["observation.images.wrist"]["mean"]) == (3, 1, 1)
    np.testing.assert_allclose(np.ravel(stats["observation.images.wrist"]["mean"])[1], 60 / 255, atol=0.03)
    table = pq.read_table(root / "data/chunk-000/episode_000001.parquet")
    assert table["episode_index"].to_pylist() == [1] * 13
    assert table["frame_index"].to_pylist() == list(range(13))


def test_pictures_of_videos_can_be_written_as_images(tmp_path):
    main([str(V21), str(tmp_path / "out"), "--to", "lerobot3", "--images"])
    written = LeRobotDataset(tmp_path / "out")
    assert written.features[CAMERA]["dtype"] == "image"
    assert not (tmp_path / "out/videos").exists()
    same(LeRobotDataset(V21), written, ["action", CAMERA])


@pytest.fixture
def door(tmp_path):
    arrays = {f"e{k}/{n}": np.full((3, 2), k, "f4") for k in range(2) for n in ("actions", "observations")}
    np.savez(tmp_path / "door.npz", **arrays, **{"e0/start": np.zeros(5), "e1/start": np.zeros(5)})
    return tmp_path / "door.npz"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "open it"], "does not state its frame rate; give it as --fps N"),
        (["--fps", "9"], "episode 0 frame 0 has no instruction; give one as --task TEXT"),
        (["--fps", "9", "--task", "x", "--drop", "nose"], r"has no features \['nose'\]; it has \['action'"),
        (
            ["--fps", "9", "--task", "x", "--rename", "action=observation.state"],
            "only numbers are joined: choose other names",
        ),
        (["--fps", "0", "--task", "x"], "fps is 0.0; it must be above 0"),
    ],
)
def test_what_a_source_lacks_must_be_given_and_nothing_is_left_half_written(door, tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        main([str(door), str(tmp_path / "out"), "--to", "lerobot3", *arguments])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["door.npz"]


def test_an_archive_becomes_a_dataset_with_the_instruction_given(door, tmp_path, capsys):
    main([str(door), str(tmp_path / "out"), "--to", "lerobot21", "--fps", "100", "--task", "open the door"])
    assert "warning: left out feature start: [5] in episode 0, which has 3 actions" in capsys.readouterr().err
    written = LeRobotDataset(tmp_path / "out")
    assert written.episode_task(1) == "open the door"
    assert written.column("action").tolist() == [[0, 0]] * 3 + [[1, 1]] * 3
    with pytest.raises(SystemExit, match="exists and is not an empty folder"):
        main([str(door), str(tmp_path / "out"), "--to", "lerobot21", "--fps", "100", "--task", "open the door"])
    with pytest.raises(SystemExit, match=r"fps is 3\.0, .*out states 100\.0; leave it out"):
        main([str(tmp_path / "out"), str(tmp_path / "again"), "--to", "lerobot3", "--fps", "3"])


def test_numbers_that_get_one_name_are_joined_in_the_order_given(tmp_path):
    """RT-1 and others keep the parts of an action apart."""
    joined = ["observation.state=action", "action=action"]
    main([str(BRIDGE), str(tmp_path / "out"), "--to", "lerobot3", "--fps", "5", "--rename", *joined])
    source, written = open_dataset(BRIDGE), LeRobotDataset(tmp_path / "out")
    assert written.features["action"]["shape"] == [14]
    assert "observation.state" not in written.features
    both = np.concatenate([source.column("observation.state"), source.column("action")], axis=1)
    assert (written.column("action") == both).all()
    pictures = ["observation.image_0=front", "observation.image_1=front"]
    with pytest.raises(SystemExit, match=r"rename gives \['observation.image_0', 'observation.image_1'\] one name"):
        main([str(BRIDGE), str(tmp_path / "b"), "--to", "lerobot3", "--fps", "5", "--rename", *pictures])


def test_broken_episodes_are_refused_or_left_out_and_named(tmp_path, capsys):
    shutil.copytree(V21, tmp_path / "set", copy_function=shutil.copyfile)
    (tmp_path / f"set/videos/chunk-000/{CAMERA}/episode_000001.mp4").unlink()
    with pytest.raises(SystemExit, match=r"episode_000001\.mp4: the video file is missing"):
        main([str(tmp_path / "set"), str(tmp_path / "out"), "--to", "lerobot3"])
    main([str(tmp_path / "set"), str(tmp_path / "out"), "--to", "lerobot3", "--lenient"])
    assert "episode_000001.mp4: the video file is missing" in capsys.readouterr().err
    written = LeRobotDataset(tmp_path / "out")
    assert written.num_episodes == 1
    assert (written.column("action") == LeRobotDataset(V21).column("action")[40:]).all()


def test_a_cut_that_no_keyframe_begins_is_refused(tmp_path):
    """LeRobot sets a keyframe every second frame."""
    video = LeRobotDataset(V30).episodes[0].videos["observation.images.wrist"].path
    cut(video, 0.2, 4, 10, tmp_path / "a.mp4")
    assert count_frames(tmp_path / "a.mp4") == 4
    with pytest.raises(ValueError, match=r"no keyframe at 0\.100 s, where an episode begins"):
        cut(video, 0.1, 4, 10, tmp_path / "b.mp4")
    with pytest.raises(ValueError, match=r"8 frames from 3\.100 s on, the episode has 20"):
        cut(video, 3.1, 20, 10, tmp_path / "c.mp4")
