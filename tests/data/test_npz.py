"""Episodes of a NumPy archive, read as any dataset."""

import pathlib

import numpy as np
import pytest

from data.datasets import open_dataset
from data.npz import NpzDataset

DOOR = pathlib.Path(__file__).parents[2] / "../shared/data/adroit_door"


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for episode, length in (("b", 4), ("a", 3)):
        arrays |= {
            f"{episode}/actions": np.full((length, 2), length, "f4"),
            f"{episode}/observations": rng.normal(size=(length, 3)),
            f"{episode}/obs/front": rng.integers(0, 256, (length, 5, 6, 3), np.uint8),
            f"{episode}/rewards": np.arange(length),
            f"{episode}/start": np.zeros(9),
        }
    np.savez(tmp_path / "arm.npz", **arrays)
    return tmp_path / "arm.npz"


def test_arrays_with_a_value_for_each_action_are_features(path):
    dataset, arrays = open_dataset(path), np.load(path)
    assert (dataset.num_episodes, dataset.episode_lengths.tolist()) == (2, [3, 4])
    assert sorted(dataset.features) == ["action", "observation.front", "observation.state", "rewards"]
    assert dataset.column("action")[:, 0].tolist() == [3] * 3 + [4] * 4
    assert dataset.column("rewards").shape == (7, 1)
    assert (dataset.column("observation.state")[3:] == arrays["b/observations"]).all()
    for episode, name in enumerate("ab"):
        for step in (2, 0):
            pixels = dataset.frame(episode, step)["observation.front"]
            assert (pixels == arrays[f"{name}/obs/front"][step]).all()
    assert dataset.left_out == {"start": "[9] in episode 0, which has 3 actions"}
    assert (dataset.frame_task(0, 0), dataset.fps) == ("", None)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, "every episode needs EPISODE/actions"),
        ({"a/observations": np.zeros((3, 2))}, "every episode needs EPISODE/actions"),
    ],
)
def test_an_archive_without_actions_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        NpzDataset(tmp_path / "a.npz")


def test_what_is_no_archive_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 truncated")
    (tmp_path / "c.txt").write_text("text")
    with pytest.raises(ValueError, match="is a single array"):
        open_dataset(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"b\.npz cannot be read as \.npz"):
        open_dataset(tmp_path / "b.npz")
    with pytest.raises(ValueError, match=r"c\.txt' is no dataset; give a LeRobot or RLDS folder"):
        open_dataset(tmp_path / "c.txt")
    with pytest.raises(ValueError, match="does not exist; record the dataset first or correct the path"):
        open_dataset(tmp_path / "nothing")


@pytest.mark.skipif(not DOOR.is_dir(), reason="the dataset is not here")
def test_twenty_real_demonstrations_of_a_hand_are_read():
    dataset = open_dataset(DOOR)
    assert (dataset.num_episodes, dataset.num_frames) == (20, 5445)
    assert (dataset.column("action").shape, dataset.column("observation.state").shape) == ((5445, 28), (5445, 39))
    assert set(dataset.left_out) == {"init_door_body_pos", "init_qpos", "init_qvel"}
