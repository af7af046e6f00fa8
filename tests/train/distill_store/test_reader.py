"""A phase that learns from a store: the rows find their entries on any host, and nothing else is accepted."""

import copy
import dataclasses
import pickle
import shutil

import jax
import numpy as np
import pytest

from tests.train.tiny_config import NUM_PIECES
from train.build import build_phase, check
from train.checkpoint import Checkpoint
from train.distill_store.reader import Store, verify
from train.phases import read_sections, run
from train.rows import rows_of


def of_store(config, folder, **changes):
    """The config whose student learns from a store."""
    config = copy.deepcopy(config)
    config.phases.learn.teacher = f"store:{folder}"
    config.phases.learn.update(changes)
    return config


def stacked(batches):
    return jax.tree.map(lambda *x: np.concatenate(x), *batches)


@pytest.mark.parametrize("kind", ["sampled", "topk"])
def test_every_host_reads_the_entries_of_its_own_rows(taught, stores, kind):
    pipeline = build_phase(of_store(taught.config, stores[kind], steps=4), "learn", None).pipeline
    alone = pipeline.iterator(0, 0, 1)
    hosts = [pipeline.iterator(0, host, 2) for host in range(2)]
    for _ in range(4):
        whole, halves = next(alone), stacked([next(host) for host in hosts])
        assert jax.tree.structure(whole) == jax.tree.structure(halves)
        jax.tree.map(np.testing.assert_array_equal, whole, halves)
        assert np.isfinite(whole.values["teacher_log_p"]).any()
    for iterator in (alone, *hosts):
        iterator.close()


def test_a_store_travels_to_worker_processes_as_its_folder(stores, taught):
    row, store = rows_of(taught.config, "learn")[0].row(5), Store(stores["topk"])
    there = pickle.loads(pickle.dumps(store)).add(5, row)
    jax.tree.map(np.testing.assert_array_equal, there, store.add(5, row))


@pytest.fixture(scope="module")
def learned(taught, stores, tmp_path_factory):
    """The student after three steps: with the teacher in memory, and from a store of all entries but one."""
    folder, workdir = tmp_path_factory.mktemp("store") / "all", tmp_path_factory.mktemp("offline")
    taught.write(folder, kind="topk", num=NUM_PIECES - 1)
    online = copy.deepcopy(taught.config)
    online.phases.learn.teacher = f"path:{taught.teacher.path}"
    offline = of_store(taught.config, folder)
    return [
        (run(config, workdir / name, build_phase, only="learn")["learn"], workdir / name / "learn")
        for name, config in (("online", online), ("offline", offline))
    ]


def test_a_student_of_a_store_of_everything_is_that_of_the_teacher(learned):
    (online, _), (offline, _) = learned
    for measured in ("losses", "evaluation"):
        assert online[measured].keys() == offline[measured].keys()
        for name, value in online[measured].items():
            assert offline[measured][name] == pytest.approx(value, abs=2e-3), (measured, name)


def test_the_checkpoint_of_such_a_student_has_no_entries_in_its_example(learned):
    assert [Checkpoint.open(folder).example_batch.values for _, folder in learned] == [{}, {}]


def test_the_student_of_a_store_keeps_no_teacher_in_memory(taught, stores):
    assert build_phase(of_store(taught.config, stores["sampled"]), "learn", None).constants == ()


def refused(config, message):
    with pytest.raises(ValueError) as error:
        build_phase(config, "learn", None)
    assert message in str(error.value)
    assert str(error.value).startswith("config.phases.learn.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"sources.text.holdout": 0.2}, "sources.text.holdout: 0.1 there, 0.2 here"),
        ({"phases.learn.pipeline.window": 64}, "pipeline.window: 4096 there, 64 here"),
        ({"phases.learn.steps": 5}, "holds 8 rows, the phase takes 10; write the others with"),
        ({"train.steps": 6}, "holds 8 rows, the phase takes 12"),
        ({"phases.learn.options": {"temperature": 2.0}}, "options.temperature is 2.0, a store holds the teacher at 1"),
        ({"vocabulary.num_codes": 4, "models.student.num_codes": 4}, "(SHA-256); set config.vocabulary"),
        ({"phases.learn.teacher": "store:/none"}, "teacher: /none holds no store"),
    ],
)
def test_a_store_of_other_rows_is_refused_naming_the_field(taught, stores, changes, message):
    config = of_store(taught.config, stores["sampled"])
    for path, value in changes.items():
        *sections, field = path.split(".")
        section = config
        for name in sections:
            section = section[name]
        section[field] = value
    refused(config, message)


def test_settings_that_leave_the_rows_alone_are_accepted(taught, stores):
    config = of_store(taught.config, stores["sampled"])
    config.phases.learn.pipeline.update({"batch_size": 1, "num_threads": 1, "prefetch": 1})
    check(config)
    next(build_phase(config, "learn", None).pipeline.iterator(0, 0, 1))


def test_a_teacher_elsewhere_that_is_not_there_is_refused_before_the_first_phase_runs(taught, tmp_path):
    config = copy.deepcopy(taught.config)
    config.phases.learn.teacher = "path:/none"
    with pytest.raises(ValueError, match=r"config\.phases\.learn\.teacher: /none holds no finished checkpoint"):
        run(config, tmp_path, build=lambda *_: pytest.fail("a phase was built"))


def test_an_objective_that_needs_a_model_refuses_a_store(taught, stores):
    config = of_store(taught.config, stores["sampled"], objective="next_token")
    with pytest.raises(ValueError, match=r"config\.phases\.learn\.teacher is 'store:.*takes none; remove it"):
        read_sections(config)


def test_text_that_changed_is_noticed_at_the_row(taught, stores):
    """The settings are the same; the words are not."""
    row = rows_of(taught.config, "learn")[0].row(1)
    other = dataclasses.replace(row, tokens=row.tokens[::-1].copy())
    with pytest.raises(ValueError, match=r"record of row 1 belongs to a row with other tokens.*the data has changed"):
        Store(stores["sampled"]).add(1, other)


def test_a_row_past_the_end_is_refused(taught, stores):
    with pytest.raises(ValueError, match=r"has no row 8; python -m train\.distill_store writes it"):
        Store(stores["sampled"]).add(8, rows_of(taught.config, "learn")[0].row(8))


@pytest.fixture
def copied(stores, tmp_path):
    return shutil.copytree(stores["sampled"], tmp_path / "copy")


def test_a_shard_that_was_cut_is_refused_at_once(copied):
    shard = copied / "00001.array_record"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"00001\.array_record has \d+ bytes, 00001\.json says \d+; remove both"):
        Store(copied)


def test_a_changed_byte_is_found_by_verification_and_when_the_row_is_read(taught, copied):
    shard = copied / "00000.array_record"
    content = bytearray(shard.read_bytes())
    used = np.flatnonzero(np.frombuffer(content, np.uint8))
    content[used[len(used) // 2]] ^= 1
    shard.write_bytes(content)
    assert verify(copied) == ["00000.array_record"]
    rows, store = rows_of(taught.config, "learn")[0], Store(copied)
    with pytest.raises(ValueError, match=r"remove it and its \.json, and run python -m train\.distill_store again"):
        [store.add(r, rows.row(r)) for r in range(4)]
