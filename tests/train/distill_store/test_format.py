"""Records: what is rounded, by how much, how long they are, and what is refused."""

import dataclasses
import json
import struct

import jax
import numpy as np
import pytest

from data.batch import Batch, targets
from train.distill_store.format import STEP, Description, decode, encode, taught_slots
from train.objectives.distill_entries import Entries

T, K = 12, 8


def row(seed: int = 0, taught: bool = True) -> Batch:
    rng = np.random.default_rng(seed)
    segments = np.repeat([1, 2, 0], [6, 4, 2]).astype(np.int32)
    weights = rng.choice([0, 0.5, 1, 1], T).astype(np.float32) * taught
    zeros = np.zeros(T, np.int32)
    return Batch(rng.integers(0, 99, T).astype(np.int32), segments, zeros, zeros, weights, zeros, {}, {})


def description(kind, vocab_size=1000) -> Description:
    return Description(kind, K, 4, vocab_size, "", 0, {}, {}, "")


def drawn(vocab_size: int, seed: int = 0) -> Entries:
    rng = np.random.default_rng(seed)
    id_TK = np.sort(rng.integers(0, vocab_size, (T, K)) * (rng.random((T, 1)) > 0.3), axis=1)
    id_TK[0] = vocab_size - 1  # one entry, drawn every time
    return Entries(id_TK.astype(np.int32), None, None, rng.uniform(0, 9, T).astype(np.float32))


def largest(vocab_size: int, seed: int = 0) -> Entries:
    """In no order of ids, with a total of one."""
    rng = np.random.default_rng(seed)
    id_TK = np.stack([rng.choice(vocab_size, K, replace=False) for _ in range(T)]).astype(np.int32)
    log_p = np.log(rng.dirichlet(np.full(K + 1, 0.3), T)).astype(np.float32)
    return Entries(id_TK, log_p[:, :K], log_p[:, K], None)


@pytest.mark.parametrize("vocab_size", [1000, 1 << 16, 262_144])
def test_draws_come_back_as_exact_shares(vocab_size):
    given, of = drawn(vocab_size), description("sampled", vocab_size)
    read, slots = decode(of, row(), encode(of, row(), given)), taught_slots(row())
    assert read.rest is None
    for t in range(T):
        shares = np.zeros(vocab_size)
        np.add.at(shares, read.id[t], np.exp(read.log_p[t]))
        expected = np.bincount(given.id[t], minlength=vocab_size) / K if t in slots else np.zeros(vocab_size)
        np.testing.assert_allclose(shares, expected, rtol=1e-6)
    np.testing.assert_allclose(read.entropy[slots], given.entropy[slots], atol=STEP / 2)


@pytest.mark.parametrize("vocab_size", [1000, 262_144])
def test_log_probabilities_come_back_to_within_half_a_step_and_sum_to_one(vocab_size):
    given, of = largest(vocab_size), description("topk", vocab_size)
    read = decode(of, row(), encode(of, row(), given))
    for t in taught_slots(row()):
        stored = dict(zip(read.id[t].tolist(), read.log_p[t], strict=True))
        for index, log_p in zip(given.id[t].tolist(), given.log_p[t], strict=True):
            assert stored[index] == pytest.approx(log_p, abs=STEP)  # half a step, and what normalising adds
        assert read.rest[t] == pytest.approx(given.rest[t], abs=STEP)
        all_p = np.exp(np.append(read.log_p[t], read.rest[t]).astype("f8"))
        assert all_p.sum() == pytest.approx(1, abs=1e-6)
        assert read.entropy[t] == pytest.approx(-np.sum(all_p * np.log(all_p)), abs=1e-5)


def test_the_rest_of_a_teacher_that_is_sure_has_no_mass():
    log_p = np.full((T, K), -np.inf, np.float32)
    log_p[:, 3] = 0
    given = Entries(np.tile(np.arange(K, dtype=np.int32), (T, 1)), log_p, np.full(T, -90, np.float32), None)
    read = decode(description("topk"), row(), encode(description("topk"), row(), given))
    for t in taught_slots(row()):
        assert read.log_p[t].tolist() == [-np.inf] * 3 + [0] + [-np.inf] * (K - 4)
        assert (read.rest[t], read.entropy[t]) == (-np.inf, 0)


def test_taught_slots_are_those_that_predict_a_target():
    batch = jax.tree.map(lambda x: x[None], row())
    np.testing.assert_array_equal(taught_slots(row()), np.flatnonzero(targets(batch)[1][0]))
    assert len(taught_slots(row())) > 3


@pytest.mark.parametrize(("vocab_size", "id_bytes"), [(1 << 16, 2), ((1 << 16) + 1, 4)])
def test_a_record_is_as_long_as_the_format_says(vocab_size, id_bytes):
    n = len(taught_slots(row()))
    record = encode(description("topk", vocab_size), row(), largest(vocab_size))
    assert len(record) == 12 + 2 * n + (id_bytes + 2) * n * K + 2 * n + 4
    given = drawn(vocab_size)
    m = sum(len(np.unique(given.id[t])) for t in taught_slots(row()))
    record = encode(description("sampled", vocab_size), row(), given)
    assert struct.unpack("<II", record[4:12]) == (n, m)
    assert len(record) == 12 + 4 * n + (id_bytes + 2) * m + 4


@pytest.mark.parametrize("kind", ["sampled", "topk"])
def test_a_row_without_targets_has_a_record_without_entries(kind):
    given = drawn(1000) if kind == "sampled" else largest(1000)
    read = decode(description(kind), row(taught=False), encode(description(kind), row(taught=False), given))
    assert read.id.shape == (T, K)
    assert np.isneginf(read.log_p).all()
    assert not read.entropy.any()


def test_a_flipped_bit_anywhere_is_refused():
    record = encode(description("sampled"), row(), drawn(1000))
    for position in range(len(record)):
        damaged = bytearray(record)
        damaged[position] ^= 4
        with pytest.raises(ValueError, match="its checksum does not match"):
            decode(description("sampled"), row(), bytes(damaged))


@pytest.mark.parametrize("field", ["tokens", "segment_ids", "loss_weights"])
def test_the_record_of_another_row_is_refused(field):
    record, value = encode(description("sampled"), row(), drawn(1000)), getattr(row(), field).copy()
    value[1] += 1
    with pytest.raises(ValueError, match="belongs to a row with other tokens, segments or loss weights"):
        decode(description("sampled"), dataclasses.replace(row(), **{field: value}), record)


def test_a_description_is_read_as_written_and_another_version_is_refused(tmp_path):
    description("topk").write(tmp_path)
    assert Description.read(tmp_path) == description("topk")
    content = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps(content | {"version": 0}))
    with pytest.raises(ValueError, match="has format version 0, not 1; write it again"):
        Description.read(tmp_path)
    with pytest.raises(ValueError, match="holds no store"):
        Description.read(tmp_path / "elsewhere")
