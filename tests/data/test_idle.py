"""Idle frames found by hand-made motion, and ranges files that keep what moves."""

import json

import numpy as np
import pytest

from data.datasets import open_dataset
from data.elements import Image
from data.idle import idle_frames, main
from data.ranges import FrameRanges
from data.robots import EmbodimentConfig, EpisodesConfig, transform_of
from tests.data.tiny_words import Words

REST, RAMP = [0.0] * 10, [i / 9 for i in range(10)]


@pytest.fixture
def path(tmp_path):
    """Two episodes of one moving and one constant dim: rest, a ramp of 10 frames, rest; and a ramp alone."""
    states = [np.array(REST + RAMP + [1.0] * 10), np.array(RAMP)]
    arrays = {}
    for episode, x in enumerate(states):
        both = np.stack([x, np.full_like(x, 7)], axis=1).astype("f4")
        arrays |= {f"e{episode}/observations": both, f"e{episode}/actions": both}
    np.savez(tmp_path / "arm.npz", **arrays)
    return tmp_path / "arm.npz"


def test_frames_are_idle_where_nothing_moves_in_the_next_chunk(path):
    first, second = idle_frames(open_dataset(path), chunk=4, threshold=0.3)
    # From frame 8 on, 4 frames ahead reach 2/9 of the range; from 9, 3/9. Frame 16 sees 3/9 more, frame 17 2/9.
    assert np.flatnonzero(~first).tolist() == list(range(9, 17))
    assert not second.any()  # its last frames move as fast, with fewer frames left


def test_the_command_writes_ranges_that_training_and_statistics_follow(path, tmp_path, capsys):
    out = tmp_path / "sub/ranges.json"
    main([str(path), "--out", str(out), "--chunk", "4", "--threshold", "0.3"])
    assert "keeps 18 of 40 frames in 2 ranges of 2 episodes" in capsys.readouterr().out
    record = json.loads(out.read_text())
    assert record["settings"] == {"dataset": "arm.npz", "feature": "observation.state", "chunk": 4, "threshold": 0.3}
    assert record["episodes"] == [{"length": 30, "keep": [[9, 17]]}, {"length": 10, "keep": [[0, 10]]}]
    fields = {"root": str(path), "embodiment": "arm", "num_slots": 1, "chunk": 2, "cameras": ()}
    source = EpisodesConfig(**fields, ranges=str(out), stride=3)
    robot = EmbodimentConfig(index=0, proprio_width=2, action_width=2)
    transform, statistics = transform_of(robot, "arm", [source])
    documents = source.build(robot.embodiment("arm"), transform, Words(64))
    assert list(zip(documents.episode_of.tolist(), documents.step_of.tolist(), strict=True)) == [
        *((0, 9), (0, 12), (0, 15)),
        *((1, 0), (1, 3), (1, 6), (1, 9)),
    ]
    assert not any(isinstance(element, Image) for element in documents[0])  # there is no camera
    kept = np.array([*RAMP[:7], 0.0, *RAMP], "f8")  # frame 9 still rests at 0
    assert statistics.features["proprio"].count == 18
    np.testing.assert_allclose(statistics.features["proprio"].mean[0], kept.mean(), rtol=1e-5)


def test_ranges_and_masks_are_each_other_inverse():
    rng = np.random.default_rng(0)
    masks = [rng.random(length) < 0.6 for length in (1, 7, 40)] + [np.zeros(5, bool)]
    ranges = FrameRanges.of(masks)
    for episode, mask in enumerate(masks):
        assert ranges.frames(episode).tolist() == np.flatnonzero(mask).tolist()


def test_ranges_of_another_dataset_are_refused(path, tmp_path):
    FrameRanges((3,), (((0, 2),),)).save(tmp_path / "r.json")
    source = EpisodesConfig(
        root=str(path), embodiment="a", num_slots=1, chunk=1, cameras=(), ranges=str(tmp_path / "r.json")
    )
    with pytest.raises(ValueError, match="has 2 episodes and 40 frames, the ranges were made for 1 and 3 of other"):
        transform_of(EmbodimentConfig(index=0, proprio_width=2, action_width=2), "a", [source])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "cannot be read"),
        ("{}", "cannot be read"),
        ('{"episodes": [{"length": 3, "keep": [[2, 1]]}]}', r"episode 0: ranges \(\(2, 1\),\) are not \[start, stop\)"),
        ('{"episodes": [{"length": 3, "keep": [[0, 4]]}]}', "leave its 3 frames"),
        ('{"episodes": [{"length": 9, "keep": [[4, 6], [1, 2]]}]}', "are not .* in order"),
    ],
)
def test_a_ranges_file_that_cannot_be_used_is_refused(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        FrameRanges.load(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chunk", "0"], "error: chunk is 0; it must be at least 1 frame"),
        (["--threshold", "1.5"], "error: threshold is 1.5; it must be a share"),
        (["--feature", "wheels"], "error: .*no feature 'wheels'; it has"),
    ],
)
def test_mistakes_end_in_one_line(path, tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        main([str(path), "--out", str(tmp_path / "r.json"), *arguments])
    assert not (tmp_path / "r.json").exists()
