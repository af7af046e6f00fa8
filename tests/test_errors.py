"""Mistakes as a user meets them: each is a ValueError that a command prints in one line before it exits with 1.

The message names the field or file, what was found and the remedy. Tested elsewhere, with the module they belong to:

- an unknown or ill-typed config key, no such config file or variant: configs/test_command.py, configs/test_schema.py
- sections and phases that do not fit together: train/test_build.py, train/test_phase_config.py
- lines and records that cannot be read, wrong columns: data/test_records.py, data/test_text.py
- LeRobot datasets: missing and truncated files, zero-length episodes, broken PNG and video, other versions:
  data/test_lerobot_reader.py; episodes without frames, NaN and wrong widths when writing: data/test_lerobot_writer.py
- RLDS records, archives and ranges files that cannot be used, conversions that lack something: data/test_rlds.py,
  data/test_npz.py, data/test_idle.py, data/test_convert.py
- a checkpoint of another config, a phase whose source is not finished, a work folder that cannot be written:
  train/test_phases.py; a full disk: train/test_checkpoint.py
- non-finite and spiking steps: train/test_loop.py
- a policy from a phase without an action head or from no checkpoint, observations it cannot use: serving/test_policy.py
- requests to record that cannot be met: eval/test_record.py

Here are those that only show once a whole phase or an evaluation is put together.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from eval.config import EvaluateConfig, TextConfig
from tests.data.tiny_robots import FRONT, write_arm
from tests.train import tiny
from tests.train.tiny_config import robot_config, text_config
from train.build import build_phase
from train.phases import run

pytestmark = pytest.mark.usefixtures("quick_compilation", "own_cache")
PROPRIO, ACTION = 4, 2  # widths of arm2 in `robot_config`


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return text_config(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def robots(tmp_path_factory):
    return robot_config(tmp_path_factory.mktemp("robots"))


def changed(config, changes):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    return config


# --- text ---------------------------------------------------------------------------------------------------------


def truncate(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def write_parquet(path):
    pq.write_table(pa.table({"text": ["some words"] * 50}), path)
    truncate(path)


def write_array_record(path):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for _ in range(50):
        writer.write(b"some words")
    writer.close()
    truncate(path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("gone.txt", lambda path: None, "'{path}' matches no file; correct it in `paths`"),
        ("empty.txt", lambda path: path.touch(), "{path} is empty; fill it or leave it out of `paths`"),
        ("blank.txt", lambda path: path.write_text("\n\n"), "no text in {path}"),
        ("half.parquet", write_parquet, "no text in {path}: {path}: cannot be read on (ArrowInvalid: "),
        ("half.array_record", write_array_record, "no text in {path}: {path}: cannot be read on (EOFError: "),
    ],
)
def test_a_text_file_that_cannot_be_used_stops_the_phase_by_source_and_file(texts, tmp_path, name, write, message):
    path = tmp_path / name
    write(path)
    config = changed(texts, {"sources.text.paths": (str(path),)})
    with pytest.raises(ValueError) as error:
        build_phase(config, "teach", None)
    assert str(error.value).startswith("config.sources.text: " + message.format(path=path))
    if "half" in name:
        assert str(error.value).endswith("is the file complete?")


def test_records_that_cannot_be_read_are_left_out_up_to_max_corrupt(texts, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"text": "some words"}\n{"text": \n{"text": "more words"}\n')
    changes = {"sources.text.paths": (str(path),), "sources.text.holdout": 0.0}
    with pytest.raises(ValueError) as error:
        build_phase(changed(texts, changes), "teach", None)
    expected = (
        r"config\.sources\.text: 1 unreadable records, max_corrupt is 0:\n .*lines\.jsonl, line 2: (.|\n)*raise max"
    )
    assert re.match(expected, str(error.value))
    config = changed(texts, changes)
    config.sources.text.max_corrupt = 1
    assert build_phase(config, "teach", None).assets.example_batch.tokens.any()


def test_a_vocabulary_that_is_not_there_is_refused_with_the_command_that_makes_one(texts, tmp_path):
    path = tmp_path / "gone.model"
    with pytest.raises(ValueError) as error:
        build_phase(changed(texts, {"vocabulary.path": str(path)}), "teach", None)
    expected = f"config.vocabulary: no vocabulary at {path}; make one with `python -m data.vocabulary --out {path}`"
    assert str(error.value) == expected


# --- episodes -----------------------------------------------------------------------------------------------------


def break_png(table):
    rows = table[FRONT].to_pylist()
    rows[1]["bytes"] = rows[1]["bytes"][:40]
    return FRONT, rows


def break_action(table):
    rows = np.array(table["action"].to_pylist())
    rows[1] = np.nan
    return "action", rows.tolist()


def damaged(root, damage):
    """A dataset of one episode whose frame 1 is damaged; its path."""
    write_arm(root, PROPRIO, ACTION, lengths=(5,))
    (path,) = (root / "data").rglob("*.parquet")
    table = pq.read_table(path)
    name, rows = damage(table)
    position = table.schema.get_field_index(name)
    pq.write_table(table.set_column(position, name, pa.array(rows, table.schema.field(name).type)), path)
    return str(root)


@pytest.mark.parametrize(
    ("damage", "frames", "what"),
    [
        (break_png, {1}, f"frame 1, feature '{FRONT}': image bytes cannot be decoded (cannot identify image file)"),
        (break_action, {0, 1}, "NaN or infinity in 'observation.state' or in the next 3 frames of 'action'; repair"),
    ],
)
def test_broken_frames_are_named_and_left_out_up_to_max_corrupt_then_refused(robots, tmp_path, damage, frames, what):
    root = damaged(tmp_path / "arm2", damage)
    config = changed(robots, {"sources.arm2.root": root})
    config.phases.act.mixture = {"arm2": 1.0}
    config.phases.act.pipeline.window = 5  # documents that are shuffled together: all of them

    def read_all(max_corrupt):
        config.phases.act.pipeline.max_corrupt = max_corrupt
        pipeline = build_phase(config, "act", None).pipeline
        rows = [pipeline.row(row) for row in range(10)]  # two passes over five documents, one a row
        return pipeline.corrupt, rows

    corrupt, rows = read_all(max_corrupt=len(frames))
    assert set(corrupt) == {f"source 'arm2', document {frame}" for frame in frames}
    for message in corrupt.values():
        assert root in message
        assert what in message
    assert sum(bool(row.segment_ids.any()) for row in rows) == 2 * (5 - len(frames))
    with pytest.raises(ValueError) as error:
        read_all(max_corrupt=len(frames) - 1)
    assert f"{len(frames)} unreadable documents, max_corrupt is {len(frames) - 1}; repair them or" in str(error.value)
    assert f"source 'arm2', document 1: {root}" in str(error.value)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (
            "action_width",
            "'action' has 2 dims, embodiment 'arm2' has 3; choose the embodiment this dataset was recorded",
        ),
        (
            "proprio_width",
            "'observation.state' has 4 dims, embodiment 'arm2' has 5; choose the embodiment this dataset",
        ),
    ],
)
def test_a_dataset_of_another_arm_is_refused_with_both_sizes(robots, field, message):
    config = changed(robots, {f"embodiments.arm2.{field}": robots.embodiments.arm2[field] + 1})
    with pytest.raises(ValueError) as error:
        build_phase(config, "act", None)
    assert str(error.value).startswith(f"config.sources.arm2: {robots.sources.arm2.root}: {message}")


def test_a_dataset_that_is_not_there_is_refused_by_source(robots):
    with pytest.raises(ValueError, match=r"^config\.sources\.arm3: root 'nowhere' does not exist; record the dataset"):
        build_phase(changed(robots, {"sources.arm3.root": "nowhere"}), "act", None)


# --- checkpoints and evaluation ------------------------------------------------------------------------------------


def test_a_run_does_not_go_on_with_another_tokenizer(tmp_path):
    config = tiny.config(**{"train/steps": 2, "train/phases": ("pretrain",)})
    del config.phases["distil"]
    run(config, tmp_path, build=tiny.build)
    (tmp_path / "pretrain" / "done.json").unlink()

    def build(*arguments):
        phase = tiny.build(*arguments)
        return dataclasses.replace(phase, assets=dataclasses.replace(phase.assets, vocabulary=b"another"))

    with pytest.raises(ValueError, match=r"pretrain/checkpoints/2 was trained with tokenizer \w{12} but .* is \w{12}"):
        run(config, tmp_path, build=build)


def test_nothing_is_evaluated_before_it_is_trained(tmp_path):
    from eval.judge import judge

    config = EvaluateConfig(text=TextConfig(source="text", teacher="teach", student="learn"))
    message = rf"^--workdir {tmp_path} has no finished phase; run `python -m train` with the same config first$"
    with pytest.raises(ValueError, match=message):
        judge(config, {}, tmp_path)
