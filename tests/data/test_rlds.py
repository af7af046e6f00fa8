"""RLDS without TensorFlow: two real episodes, sets made up with what real ones have, and what can be wrong."""

import io
import json
import pathlib
import pickle
import shutil
import struct

import numpy as np
import pytest
from PIL import Image as PillowImage

from data.datasets import open_dataset
from data.elements import Chunk, CorruptRecord, Image
from data.rlds import RldsDataset
from data.robots import EmbodimentConfig, EpisodesConfig, transform_of
from data.tf_example import example_class, example_features
from data.tfrecord import masked_crc, read_record, record_offsets
from tests.data.tiny_words import Words

BRIDGE = pathlib.Path(__file__).parents[1] / "assets/bridge_mini"
SHARED = pathlib.Path(__file__).parents[2] / "../shared/data/bridge_mini"


def tensor(dtype, *shape, encoding="none"):
    dimensions = {"dimensions": [str(n) for n in shape]} if shape else {}
    return {"pythonClassName": "tfds.Tensor", "tensor": {"shape": dimensions, "dtype": dtype, "encoding": encoding}}


def folder_of(features):
    return {"pythonClassName": "tfds.FeaturesDict", "featuresDict": {"features": features}}


STEP = {
    "action": tensor("float32", 2),
    "is_last": tensor("bool"),
    "observation": folder_of({"state": tensor("float32", 1, 3), "depth": tensor("float32", 4, encoding="zlib")}),
    "natural_language_instruction": {"pythonClassName": "tfds.Text", "text": {}},
    "note": tensor("string"),
}


def record(values):
    """A serialised tf.train.Example."""
    example = example_class()()
    for name, value in values.items():
        entry = example.features.feature.add(key=name)
        if isinstance(value, list):
            entry.value.bytes_list.value.extend(value)
        elif value.dtype.kind == "f":
            entry.value.float_list.value.extend(value.tolist())
        else:
            entry.value.int64_list.value.extend(value.astype(int).tolist())
    return example.SerializeToString()


def episode(length, start=0.0):
    return {
        "steps/action": start + np.arange(2 * length, dtype="f4"),
        "steps/is_last": np.arange(length) == length - 1,
        "steps/observation/state": start + np.arange(3 * length, dtype="f4"),
        "steps/natural_language_instruction": [f"do {start:g}".encode()] * length,
        "steps/note": [f"n{t}".encode() for t in range(length)],
    }


def write(folder, records, name="arm-train.tfrecord-00000-of-00001", step=None):
    folder.mkdir(exist_ok=True)
    steps = {"pythonClassName": "tfds.Dataset", "sequence": {"feature": folder_of(step or STEP)}}
    (folder / "features.json").write_text(json.dumps(folder_of({"steps": steps})))
    with (folder / name).open("wb") as file:
        for data in records:
            header = struct.pack("<Q", len(data))
            file.write(header + struct.pack("<I", masked_crc(header)) + data + struct.pack("<I", masked_crc(data)))
    return folder


def test_two_real_episodes_are_read_as_any_dataset():
    dataset = open_dataset(BRIDGE)
    assert isinstance(dataset, RldsDataset)
    assert (dataset.num_episodes, dataset.num_frames, dataset.episode_lengths.tolist()) == (2, 20, [10, 10])
    assert dataset.features["observation.image_0"]["shape"] == [64, 64, 3]
    assert dataset.column("action").shape == dataset.column("observation.state").shape == (20, 7)
    assert [dataset.frame_task(e, 9) for e in range(2)] == [
        "flip pot upright which is in sink",
        "turn lever vertical to front",
    ]
    raw = example_features(
        read_record(BRIDGE / "bridge_mini.tfrecord", *record_offsets(BRIDGE / "bridge_mini.tfrecord")[1])
    )
    frame = dataset.frame(1, 4)
    assert frame["observation.state"].tolist() == raw["steps/observation/state"].reshape(10, 7)[4].tolist()
    with PillowImage.open(io.BytesIO(raw["steps/observation/image_2"][4])) as picture:
        assert (frame["observation.image_2"] == np.asarray(picture)).all()


def test_its_episodes_become_documents_without_being_converted():
    cameras = ("observation.image_0", "observation.image_1")
    source = EpisodesConfig(root=str(BRIDGE), embodiment="widowx", num_slots=4, chunk=4, cameras=cameras, holdout=0.5)
    robot = EmbodimentConfig(index=0, proprio_width=7, action_width=7)
    transform, statistics = transform_of(robot, "widowx", [source])
    documents = source.build(robot.embodiment("widowx"), transform, Words(64))
    assert len(documents) == statistics.features["proprio"].count == 10  # the other episode is held out
    pictures = [element.pixels.shape for element in documents[3] if isinstance(element, Image)]
    assert pictures == [(64, 64, 3)] * 2
    assert documents[3][-1].values.shape == (4, 7)
    assert isinstance(documents[3][-1], Chunk)


def test_features_keep_their_names_and_widths_and_what_cannot_be_read_is_said(tmp_path):
    dataset = RldsDataset(write(tmp_path / "set", [record(episode(3)), record(episode(2, 10.0))]))
    assert dataset.episode_lengths.tolist() == [3, 2]
    assert dataset.column("observation.state")[3:].tolist() == [[10, 11, 12], [13, 14, 15]]
    assert dataset.column("is_last")[:, 0].tolist() == [False, False, True, False, True]
    assert dataset.frame(1, 1)["note"] == "n1"
    assert dataset.tasks == {0: "do 0", 1: "do 10"}
    assert dataset.left_out == {"observation.depth": "a tensor float32[4] with encoding zlib cannot be read"}
    with pytest.raises(ValueError, match=r"no feature 'observation\.depth' \(a tensor float32.*it has \['action'"):
        dataset.column("observation.depth")
    assert pickle.loads(pickle.dumps(dataset)).column("action").tolist() == dataset.column("action").tolist()


def test_the_shards_of_one_split_are_read_in_order_and_several_splits_are_refused(tmp_path):
    write(tmp_path / "set", [record(episode(2))], "arm-train.tfrecord-00000-of-00002")
    write(tmp_path / "set", [record(episode(3, 5.0))], "arm-train.tfrecord-00001-of-00002")
    assert RldsDataset(tmp_path / "set").episode_lengths.tolist() == [2, 3]
    write(tmp_path / "set", [record(episode(4))], "arm-val.tfrecord-00000-of-00001")
    with pytest.raises(ValueError, match=r"splits \['train', 'val'\] lie there; give the files of one"):
        RldsDataset(tmp_path / "set")
    assert open_dataset(tmp_path / "set/arm-train.*").episode_lengths.tolist() == [2, 3]
    assert open_dataset(tmp_path / "set/arm-val.tfrecord-00000-of-00001").episode_lengths.tolist() == [4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps/action": np.zeros(5, "f4")}, "record at byte .*: features differ in their number of steps"),
        ({"steps/is_last": [b"x"] * 2}, "'steps/is_last' holds byte strings, features.json says bool"),
        ({key: value[:0] for key, value in episode(2).items()}, "the episode has no steps"),
    ],
)
def test_a_record_that_is_no_episode_is_refused_or_left_out(tmp_path, changes, message):
    root, problems = write(tmp_path / "set", [record(episode(2) | changes), record(episode(3))]), []
    with pytest.raises(ValueError, match=message):
        RldsDataset(root)
    assert RldsDataset(root, problems.append).episode_lengths.tolist() == [3]
    assert len(problems) == 1


def test_a_damaged_record_is_refused_or_left_out(tmp_path):
    root, problems = tmp_path / "set", []
    root.mkdir()
    for path in BRIDGE.iterdir():
        shutil.copyfile(path, root / path.name)
    data = bytearray((root / "bridge_mini.tfrecord").read_bytes())
    data[70_000] ^= 1
    (root / "bridge_mini.tfrecord").write_bytes(data)
    with pytest.raises(ValueError, match=r"bridge_mini\.tfrecord, record at byte 12: it fails its checksum"):
        open_dataset(root)
    assert open_dataset(root, problems.append).tasks == {0: "turn lever vertical to front"}


def test_a_picture_that_is_not_there_spoils_its_frame_alone(tmp_path):
    buffer = io.BytesIO()
    PillowImage.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(buffer, "PNG")
    step = STEP | {"image": {"pythonClassName": "tfds.Image", "image": {"shape": {}, "dtype": "uint8"}}}
    pictures = {"steps/image": [buffer.getvalue(), b"", b"junk"]}
    dataset = RldsDataset(write(tmp_path / "set", [record(episode(3) | pictures)], step=step))
    assert (dataset.frame(0, 0)["image"] == 90).all()
    for step, problem in ((1, "no picture is stored"), (2, "image bytes cannot be decoded")):
        with pytest.raises(
            CorruptRecord, match=rf"episode 0 \(record at byte 12\) frame {step}, feature 'image': {problem}"
        ):
            dataset.frame(0, step)
    assert dataset.frame(0, 1, ["action"])["action"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "features.json").unlink(), r"features\.json is missing; it lies beside the records"),
        (lambda root: (root / "features.json").write_text("{}"), "does not describe episodes made of steps"),
        (lambda root: write(root, [], step={"a": {"text": {}}}), "no step has numbers"),
        (lambda root: write(root, []), "no episode can be read from 1 files"),
    ],
)
def test_a_set_that_cannot_be_read_is_named(tmp_path, damage, message):
    root = write(tmp_path / "set", [record(episode(2))])
    damage(root)
    with pytest.raises(ValueError, match=message):
        open_dataset(root)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the whole dataset is not here")
def test_all_twenty_episodes_are_read():
    dataset = open_dataset(SHARED)
    assert (dataset.num_episodes, dataset.num_frames, len(dataset.tasks)) == (20, 200, 4)
    assert np.isfinite(dataset.column("action")).all()
    assert dataset.frame(19, 9)["observation.image_1"].std() > 10
