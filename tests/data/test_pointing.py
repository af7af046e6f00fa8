"""Pointing documents: names with their places, drawn by (seed, index) alone."""

import json

import numpy as np
import pytest

from data.elements import CorruptRecord, Image
from data.layout import cost_of
from data.lerobot import LeRobotDataset, LeRobotWriter
from data.pointing import PointingSource, name_tokens, point_of_tokens, pointing_prompt

POINTS = [
    [
        {"label": "red cube", "point": [0, 1000]},
        {"label": "hand", "point": [500, 250]},
        {"label": "a", "point": [9, 9]},
    ],
    [],
    [{"label": "blue ball", "point": [999, 1]}],
    [{"label": "red cube", "point": [1001, 3]}],
    "no list",
]


class Words:
    bos_id = 1

    def encode(self, text):
        return [10 + len(word) for word in text.split()]

    def piece_id(self, piece):
        return {"<point>": 6}[piece]

    def code_id(self, code):
        if not 0 <= code < 128:
            raise ValueError(f"code {code} is outside 0..127")
        return 1000 + code

    def code_of(self, token):
        return token - 1000


@pytest.fixture
def dataset(tmp_path):
    features = {
        "front": {"dtype": "image", "shape": [4, 6, 3], "names": None},
        "annotation.points": {"dtype": "string", "shape": [1], "names": None},
    }
    with LeRobotWriter(tmp_path / "set", 5, features, "arm") as writer:
        images = [np.full((4, 6, 3), t, np.uint8) for t in range(len(POINTS))]
        texts = [entry if isinstance(entry, str) else json.dumps(entry) for entry in POINTS]
        writer.add_episode({"front": images, "annotation.points": texts}, "reach")
    return LeRobotDataset(tmp_path / "set")


def source_of(dataset, **options):
    options = {"camera": "front", "num_slots": 4, "num_points": 2, "num_bins": 100, "seed": 0} | options
    return PointingSource(dataset, Words(), **options)


def test_a_document_is_the_image_then_names_each_followed_by_y_and_x(dataset):
    bos, image, name, point = source_of(dataset, weight=0.5)[1]
    assert bos.ids.tolist() == [1]
    assert isinstance(image, Image)
    assert (image.pixels == 2).all()
    assert (name.ids.tolist(), name.weights.tolist()) == ([14, 14, 6], [0, 0, 0])
    assert (point.ids.tolist(), point.weights.tolist(), point.kind) == ([1099, 1000], [0.5, 0.5], "point")


def test_frames_without_points_are_left_out(dataset):
    assert source_of(dataset).step_of.tolist() == [0, 2, 3, 4]


def test_the_points_asked_for_depend_on_seed_and_index_alone(dataset):
    labels = [[label for label, _ in source_of(dataset, seed=seed).points(0)] for seed in range(20)]
    assert labels == [[label for label, _ in source_of(dataset, seed=seed).points(0)] for seed in range(20)]
    assert {len(chosen) for chosen in labels} == {2}
    assert len({tuple(chosen) for chosen in labels}) > 3


def test_costs_are_those_of_the_documents(dataset):
    source = source_of(dataset)
    for index in (0, 1):
        cost = cost_of(source[index])
        assert source.costs()[index].tolist() == [cost.slots, cost.images, cost.vectors]


def test_a_predicted_point_is_within_half_a_bin(dataset):
    source = source_of(dataset, num_points=1)
    (label, point), tokens = source.points(1)[0], source[1][-1]
    assert label == "blue ball"
    assert np.abs(point_of_tokens(tokens.ids.tolist(), source.bins, Words()) - point).max() <= 5


def test_the_prompt_of_training_is_the_prompt_of_evaluation(dataset):
    source = source_of(dataset)
    prompt = (*pointing_prompt(dataset.frame(0, 2)["front"], vocabulary=Words(), num_slots=4),)
    prompt += (name_tokens("blue ball", Words()),)
    for a, b in zip(prompt, source[1][:3], strict=True):
        assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def test_a_point_outside_the_image_or_an_unreadable_annotation_is_a_corrupt_record(dataset):
    source = source_of(dataset)
    with pytest.raises(CorruptRecord, match=r"frame 3: annotated points .*lies outside 0\.\.1000"):
        source[2]
    with pytest.raises(CorruptRecord, match=r"file-000\.parquet: episode 0 frame 4: annotated points cannot be read"):
        source[3]


def test_settings_that_cannot_work_are_refused(dataset):
    with pytest.raises(ValueError, match="num_points is 0"):
        source_of(dataset, num_points=0)
    with pytest.raises(ValueError, match="code 199 is outside"):
        source_of(dataset, num_bins=200)
    with pytest.raises(ValueError, match=r"no feature 'annotation\.boxes'"):
        source_of(dataset, feature="annotation.boxes")


def test_a_trajectory_is_the_points_one_after_the_other(tmp_path):
    features = {
        "front": {"dtype": "image", "shape": [4, 6, 3], "names": None},
        "annotation.points": {"dtype": "string", "shape": [1], "names": None},
    }
    entry = {"label": "push it", "trajectory": [[0, 1000], [500, 250]]}
    with LeRobotWriter(tmp_path / "set", 5, features, "arm") as writer:
        columns = {"front": [np.zeros((4, 6, 3), np.uint8)], "annotation.points": [json.dumps([entry])]}
        writer.add_episode(columns, "push")
    source = source_of(LeRobotDataset(tmp_path / "set"))
    assert source[0][-1].ids.tolist() == [1000, 1099, 1050, 1025]
    assert source.costs()[0].tolist() == [cost_of(source[0]).slots, 1, 0]
