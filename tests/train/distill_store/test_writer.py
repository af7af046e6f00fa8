"""What is written is what the teacher says of the phase's rows, whatever happens on the way."""

import copy
import hashlib
import itertools
import json

import jax
import numpy as np
import pytest

from serving.model import LoadedModel
from train.distill_store import writer
from train.distill_store.format import STEP, Description, taught_slots
from train.distill_store.reader import Store, verify
from train.rows import rows_of


def contents(folder):
    """SHA-256 of every file, what an interrupted run left aside included."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def said(taught):
    """(rows, log-probabilities [8,T,V] of the teacher) of the first rows, from the model as serving loads it."""
    rows = [rows_of(taught.config, "learn")[0].row(r) for r in range(8)]
    loaded = LoadedModel.of(taught.teacher)
    batch = jax.tree.map(lambda *x: np.stack(x), *rows)
    logits = jax.jit(lambda p, b: (m := loaded.module(p, b)).token_logits(m(batch).hidden_BTD))
    return rows, np.asarray(jax.nn.log_softmax(logits(loaded.params, loaded.buffers)))


def test_top_k_are_the_teachers_largest_probabilities_of_each_row(stores, said):
    store = Store(stores["topk"])
    for r, (row, log_p_TV) in enumerate(zip(*said, strict=True)):
        values, slots = store.add(r, row).values, taught_slots(row)
        for t in slots:
            expected = np.sort(np.argsort(-log_p_TV[t])[:12])
            np.testing.assert_array_equal(values["teacher_id"][t], expected)
            np.testing.assert_allclose(values["teacher_log_p"][t], log_p_TV[t][expected], atol=2 * STEP)
            rest = 1 - np.exp(log_p_TV[t][expected]).sum()
            np.testing.assert_allclose(values["teacher_rest"][t], np.log(rest), atol=2 * STEP)


def test_draws_follow_the_teacher_of_each_row(stores, said):
    """Each share is within one draw of the probability, and the entropy is that of the whole distribution."""
    store = Store(stores["sampled"])
    for r, (row, log_p_TV) in enumerate(zip(*said, strict=True)):
        values = store.add(r, row).values
        for t in taught_slots(row):
            share_V = np.zeros(log_p_TV.shape[1])
            np.add.at(share_V, values["teacher_id"][t], np.exp(values["teacher_log_p"][t]))
            assert np.abs(share_V - np.exp(log_p_TV[t])).max() < 1 / 12 + 1e-5
            entropy = -np.sum(np.exp(log_p_TV[t]) * log_p_TV[t])
            np.testing.assert_allclose(values["teacher_entropy"][t], entropy, atol=STEP)


def test_rows_are_drawn_for_independently(stores, said):
    """The numbers that place the draws differ from slot to slot: no two distributions of 384 are so alike."""
    store, (rows, _) = Store(stores["sampled"]), said
    first = [store.add(r, row).values["teacher_id"][t, 0] for r, row in enumerate(rows) for t in taught_slots(row)]
    assert len(set(first)) > 10


def test_the_report_counts_what_was_written(taught, tmp_path):
    written = taught.write(tmp_path / "s", rows=5)  # whole shards: eight rows
    rows = [rows_of(taught.config, "learn")[0].row(r) for r in range(8)]
    about = [json.loads((tmp_path / "s" / f"0000{i}.json").read_text()) for i in (0, 1)]
    assert written.rows == 8 == sum(a["rows"] for a in about)
    assert [a["first_row"] for a in about] == [0, 4]
    assert written.targets == sum(len(taught_slots(row)) for row in rows)
    assert written.targets < written.entries <= 12 * written.targets
    assert written.bytes == sum((tmp_path / "s" / f"0000{i}.array_record").stat().st_size for i in (0, 1))


def test_a_writer_that_dies_in_a_shard_is_taken_up_and_ends_with_the_same_bytes(taught, stores, tmp_path, monkeypatch):
    encoded = itertools.count()

    def encode(*arguments):
        if next(encoded) == 6:  # in the second of the two shards
            raise KeyboardInterrupt
        return writer_encode(*arguments)

    writer_encode = writer.encode
    monkeypatch.setattr(writer, "encode", encode)
    with pytest.raises(KeyboardInterrupt):
        taught.write(tmp_path / "s")
    assert Store(tmp_path / "s").num_rows == 4
    before = (tmp_path / "s" / "00000.array_record").stat().st_mtime_ns
    monkeypatch.undo()
    (tmp_path / "s" / "00001.array_record").write_bytes(b"a shard without a word that it is whole")
    assert taught.write(tmp_path / "s").rows == 4
    assert (tmp_path / "s" / "00000.array_record").stat().st_mtime_ns == before
    assert contents(tmp_path / "s") == contents(stores["sampled"])
    assert taught.write(tmp_path / "s").rows == 0


def test_several_jobs_write_parts_of_one_store(taught, stores, tmp_path):
    assert taught.write(tmp_path / "s", part=(1, 2)).rows == 4
    assert Store(tmp_path / "s").num_rows == 0  # none from the first on
    assert taught.write(tmp_path / "s", part=(0, 2)).rows == 4
    assert contents(tmp_path / "s") == contents(stores["sampled"])


def test_more_rows_are_added_to_what_is_there(taught, stores, tmp_path):
    taught.write(tmp_path / "s", rows=4)
    assert taught.write(tmp_path / "s", rows=8).rows == 4
    assert contents(tmp_path / "s") == contents(stores["sampled"])


def test_the_store_says_what_it_is_of(taught, stores):
    described = Description.read(stores["sampled"])
    assert described.teacher["phase"] == "teach"
    assert described.teacher["step"] == 1
    assert described.tokenizer_sha256 == rows_of(taught.config, "learn")[1].hash
    assert described.data["pipeline"]["slots"] == 24
    assert described.data["sources"]["text"]["holdout"] == 0.1
    assert "paths" not in described.data["sources"]["text"]
    assert verify(stores["sampled"]) == []


def test_another_store_in_the_same_folder_is_refused_naming_what_differs(taught, stores):
    before = contents(stores["sampled"])
    with pytest.raises(ValueError, match=r"holds another store: entries 12 there, 5 here; choose another folder"):
        taught.write(stores["sampled"], num=5)
    assert contents(stores["sampled"]) == before


def test_a_teacher_of_other_tokens_is_refused_and_leaves_nothing(taught, tmp_path):
    config = copy.deepcopy(taught.config)
    config.vocabulary.num_codes = 4
    with pytest.raises(ValueError, match="was trained with tokenizer"):
        taught.write(tmp_path / "s", config)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num": 0}, "--entries is 0; sampled takes 1 to 65535 of 384 tokens"),
        ({"kind": "topk", "num": 384}, "--entries is 384; topk takes 1 to 383 of 384 tokens"),
        ({"rows": 0}, "--rows is 0"),
        ({"batches_per_shard": 0}, "--batches_per_shard 0; they must be at least 1"),
        ({"part": (2, 2)}, "--part is 2/2; it must be i/n"),
    ],
)
def test_settings_out_of_range_are_refused_and_leave_nothing(taught, tmp_path, changes, message):
    with pytest.raises(ValueError) as error:
        taught.write(tmp_path / "s", **changes)
    assert message in str(error.value)
    assert not (tmp_path / "s").exists()
