"""RLDS datasets (TFDS folders of TFRecords, one episode a record), read without TensorFlow.

Ramos and others 2021 (arXiv 2111.02767): an episode is a dataset of steps, each with an observation, an action and
flags. A step's feature `observation/state` is called `observation.state` here. The instruction is the first text
feature with "instruction" in its name.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data.episode_columns import EpisodeColumns, number_feature, picture_feature
from data.lerobot.png import decode_png
from data.robot_dataset import Report, refuse
from data.tf_example import example_features
from data.tfrecord import read_record, record_offsets

KEPT_RECORDS = 8  # parsed episodes that stay in memory, for their pictures
_NUMBERS = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
Place = tuple[pathlib.Path, int, int]  # file, offset, length


@dataclasses.dataclass(frozen=True)
class StepFeature:
    """A feature of a step as features.json declares it. kind: "number", "image" or "text"."""

    key: str  # in the tf.train.Example
    kind: str
    dtype: str
    width: int  # numbers a step; 1 for images and text

    @property
    def name(self) -> str:
        return self.key.removeprefix("steps/").replace("/", ".")


class RldsDataset(EpisodeColumns):
    """A TFRecord, a pattern of them, or a folder with those of one split; features.json lies beside them.

    Numbers are read whole when it is opened, pictures an episode at a time: convert a large dataset before training
    (`python -m data.convert`). RLDS states no frame rate. Safe to use from threads.
    report: told of each record that cannot be read, which is then left out; without it the dataset is refused.
    Raises ValueError naming the file and what is wrong with it.
    """

    def __init__(self, root: str | pathlib.Path, report: Report | None = None):
        files = record_files(root)
        declared, left_out = read_features(files[0].parent / "features.json")
        places = [(file, *place) for file in files for place in record_offsets(file, report or refuse)]
        text = [feature.key for feature in declared if feature.kind == "text" and "instruction" in feature.key]
        instruction = text[0] if text else None
        stored = [feature for feature in declared if feature.key != instruction and feature.kind != "image"]
        columns: dict[str, list[np.ndarray]] = {feature.name: [] for feature in stored}
        lengths, instructions = [], []
        self._places: list[Place] = []  # of every episode
        for place in places:
            try:
                example = self._parsed(place)
                length = _length(example, declared)
                parts = {feature.name: _column(example, feature, length) for feature in stored}
            except ValueError as error:
                (report or refuse)(f"{place[0]}, record at byte {place[1]}: {error}")
                continue
            for name, part in parts.items():
                columns[name].append(part)
            said = example.get(instruction, []) if instruction else []
            instructions += [said[t].decode("utf-8", "replace") if t < len(said) else "" for t in range(length)]
            lengths.append(length)
            self._places.append(place)
        if not lengths:
            raise ValueError(f"{root}: no episode can be read from {len(files)} files; copy the dataset again")
        joined = {name: np.concatenate(parts) for name, parts in columns.items()}
        features = {name: _described(values) for name, values in joined.items()}
        self._keys = {feature.name: feature.key for feature in declared if feature.kind == "image"}
        self._lock = threading.Lock()
        self._parsed_records: collections.OrderedDict[int, dict[str, Any]] = collections.OrderedDict()
        super().__init__(root, features, joined, lengths, instructions, _robot_of(files[0]), left_out)
        for name in self._keys:
            first = self._first_picture(name)
            if first is None:
                self.left_out[name] = "no picture of it can be decoded"
            else:
                self.features[name] = picture_feature(first)

    def __reduce__(self):
        return RldsDataset, (self.root,)

    @staticmethod
    def _parsed(place: Place) -> dict[str, Any]:
        return example_features(read_record(*place))

    def _first_picture(self, name: str) -> np.ndarray | None:
        for episode in range(min(self.num_episodes, 10)):
            try:
                return self.pixels(name, episode, 0)
            except ValueError:
                continue
        return None

    def pixels(self, name: str, episode: int, step: int) -> np.ndarray:
        with self._lock:
            record = self._parsed_records.get(episode)
        if record is None:
            record = self._parsed(self._places[episode])
        with self._lock:
            self._parsed_records[episode] = record
            self._parsed_records.move_to_end(episode)
            if len(self._parsed_records) > KEPT_RECORDS:
                self._parsed_records.popitem(last=False)
        encoded = record.get(self._keys[name], [])
        if step >= len(encoded) or not encoded[step]:
            raise ValueError("no picture is stored")
        return decode_png(encoded[step])

    def describe(self, episode: int, step: int) -> str:
        path, offset, _ = self._places[episode]
        return f"{path}: episode {episode} (record at byte {offset}) frame {step}"


def record_files(root: str | pathlib.Path) -> list[pathlib.Path]:
    """The TFRecords that `root` names: itself, its matches, or those in a folder. Raises ValueError for none, or for
    those of several splits."""
    path = pathlib.Path(root)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if is_record_file(file))
    else:
        files = [path] if path.is_file() else sorted(path.parent.glob(path.name))
    splits = {found[1] for file in files if (found := re.search(r"-(\w+)\.tfrecord", file.name))}
    if not files:
        raise ValueError(f"{root}: no .tfrecord file there; give the folder that holds features.json")
    if len(splits) > 1:
        raise ValueError(f"{root}: splits {sorted(splits)} lie there; give the files of one, as in '{root}/*-train.*'")
    return files


def is_record_file(path: pathlib.Path) -> bool:
    return path.is_file() and re.search(r"\.tfrecord(-\d+-of-\d+)?$", path.name) is not None


def read_features(path: pathlib.Path) -> tuple[list[StepFeature], dict[str, str]]:
    """The features of a step, and why others cannot be read, by name. Raises ValueError where there is none."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        steps = tree["featuresDict"]["features"]["steps"]["sequence"]["feature"]
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; it lies beside the records of an RLDS dataset, copy it too") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe episodes made of steps ({error!r}); copy it again") from None
    found, left_out = [], {}
    for key, leaf in _leaves("steps", steps):
        feature, problem = _feature(key, leaf)
        if feature is not None:
            found.append(feature)
        else:
            left_out[key.removeprefix("steps/").replace("/", ".")] = problem
    if not any(feature.kind == "number" for feature in found):
        raise ValueError(f"{path}: no step has numbers ({left_out}); this is no robot dataset")
    return found, left_out


def _leaves(key: str, tree: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if "featuresDict" not in tree:
        yield key, tree
        return
    for name, part in tree["featuresDict"]["features"].items():
        yield from _leaves(f"{key}/{name}", part)


def _feature(key: str, leaf: dict[str, Any]) -> tuple[StepFeature | None, str]:
    if "image" in leaf:
        return StepFeature(key, "image", "uint8", 1), ""
    if "text" in leaf:
        return StepFeature(key, "text", "string", 1), ""
    tensor = leaf.get("tensor")
    if tensor is None:
        return None, f"a {leaf.get('pythonClassName', 'feature').rsplit('.', 1)[-1]} a step cannot be read"
    dtype, shape = tensor["dtype"], [int(n) for n in tensor["shape"].get("dimensions", [])]
    if dtype == "string" and not shape:
        return StepFeature(key, "text", "string", 1), ""
    if dtype not in _NUMBERS or min(shape, default=1) < 1 or tensor.get("encoding", "none") != "none":
        return None, f"a tensor {dtype}{shape} with encoding {tensor.get('encoding')} cannot be read"
    return StepFeature(key, "number", dtype, int(np.prod(shape, dtype=int))), ""


def _length(example: dict[str, Any], declared: Sequence[StepFeature]) -> int:
    """Steps of an episode. Raises ValueError where features disagree about it, or there is none."""
    lengths = {f.key: len(example.get(f.key, ())) / f.width for f in declared if f.kind == "number"}
    if len(set(lengths.values())) != 1 or not next(iter(lengths.values())).is_integer():
        raise ValueError(f"features differ in their number of steps {lengths}; leave the record out")
    if not (length := int(next(iter(lengths.values())))):
        raise ValueError("the episode has no steps; leave the record out")
    return length


def _column(example: dict[str, Any], feature: StepFeature, length: int) -> np.ndarray:
    values = example.get(feature.key, [])
    if feature.kind == "text":
        return np.array([value.decode("utf-8", "replace") for value in values] or [""] * length, object)
    if isinstance(values, list):
        raise ValueError(f"{feature.key!r} holds byte strings, features.json says {feature.dtype}")
    return values.reshape(length, feature.width).astype(feature.dtype)


def _described(values: np.ndarray) -> dict[str, Any]:
    return {"dtype": "string", "shape": [1], "names": None} if values.dtype == object else number_feature(values)


def _robot_of(file: pathlib.Path) -> str:
    """The name of the TFDS dataset, which mostly names the robot."""
    return re.sub(r"(-\w+)?\.tfrecord.*$", "", file.name)
