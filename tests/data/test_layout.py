import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.batch import KINDS, NO_SLOT
from data.elements import Chunk, CorruptRecord, Cost, Image, Tokens, Vector
from data.layout import RowShape, collate, cost_of, lay_out

SHAPE = RowShape(40, 5, (2, 3), vectors=6, chunk=2, width=4, pad_id=0, image_id=8, vector_id=9)


def _tokens(ids, weight=1.0, kind="text"):
    return Tokens(np.array(ids, np.int32), np.full(len(ids), weight, np.float32), kind)


def _image(value, slots=2):
    return Image(np.full((2, 3, 3), value, np.uint8), slots)


def _chunk(width=3, embodiment=1, fill=0.5):
    return Chunk(np.full((2, width), fill, np.float32), np.array([[True] * width, [False] * width]), embodiment)


ROBOT = (
    *(_tokens([1, 30, 31]), _image(7), Vector(np.array([0.1, 0.2, 0.3], np.float32), 1)),
    *(_tokens([40], kind="action"), _chunk()),
)
TEXT = (_tokens([1, 20, 21, 2], weight=0.5),)


def test_a_row_is_laid_out_field_by_field():
    row = lay_out([TEXT, ROBOT], SHAPE)
    expected = {
        "tokens": [1, 20, 21, 2, 1, 30, 31, 8, 8, 9, 40],
        "segment_ids": [1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2],
        "positions": [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6],
        "span_ids": [0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0],
        "loss_weights": [0, 0.5, 0.5, 0.5, 0, 1, 1, 0, 0, 0, 1],
        "kinds": [1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4],
    }
    for name, values in expected.items():
        array = getattr(row, name)
        np.testing.assert_array_equal(array, np.array(values + [0] * 29, array.dtype), err_msg=name)
        assert array.dtype == (np.float32 if name == "loss_weights" else np.int32)
    assert row.media["image_slot"].tolist() == [7] + [NO_SLOT] * 4
    assert (row.media["image"][0] == 7).all()
    assert not row.media["image"][1:].any()
    assert row.values["proprio_slot"].tolist() == [9] + [NO_SLOT] * 5
    assert row.values["action_slot"].tolist() == [10] + [NO_SLOT] * 5  # the slot just before the chunk
    np.testing.assert_array_equal(row.values["proprio"][0], np.array([0.1, 0.2, 0.3, 0], np.float32))
    np.testing.assert_array_equal(row.values["action"][0], [[0.5, 0.5, 0.5, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(row.values["action_mask"][0], [[True, True, True, False], [False] * 4])
    assert row.values["embodiment"].tolist() == [1, 0, 0, 0, 0, 0]


def test_a_chunk_shares_the_vector_row_before_it_and_else_takes_its_own():
    vector = Vector(np.ones(3, np.float32), 1)
    for document, vectors, action_rows in (
        ((vector, _chunk()), 1, [0]),
        ((vector, _tokens([5]), _chunk()), 1, [0]),
        ((_tokens([5]), _chunk()), 1, [0]),
        ((vector, _chunk(), _chunk()), 2, [0, 1]),
        ((vector, vector, _chunk()), 2, [1]),
        ((vector, _chunk(embodiment=2)), 2, [1]),
    ):
        row = lay_out([document], SHAPE)
        assert cost_of(document).vectors == vectors
        assert np.flatnonzero(row.values["action_slot"] != NO_SLOT).tolist() == action_rows
        used = (row.values["action_slot"] != NO_SLOT) | (row.values["proprio_slot"] != NO_SLOT)
        assert used.sum() == vectors


def test_a_model_without_media_or_values_gets_none():
    row = lay_out([TEXT], RowShape(8))
    assert row.media == {}
    assert row.values == {}


ELEMENTS = st.one_of(
    st.lists(st.integers(10, 99), min_size=1, max_size=6).map(_tokens),
    st.tuples(st.integers(0, 255), st.integers(1, 3)).map(lambda args: _image(*args)),
    st.tuples(st.integers(1, 4), st.integers(0, 2)).map(lambda a: Vector(np.full(a[0], 0.5, np.float32), a[1])),
    st.tuples(st.integers(1, 4), st.integers(0, 2)).map(lambda a: _chunk(*a)),
)
DOCUMENTS = st.lists(ELEMENTS, max_size=4).map(lambda elements: (_tokens([1]), *elements))


def _fields(row, segment):
    """What a row says about one segment, with the places of the segment counted from its own beginning."""
    (where,) = np.nonzero(row.segment_ids == segment)
    start, fields = where[0], {n: getattr(row, n)[where] for n in ("tokens", "positions", "loss_weights", "kinds")}
    for name, slots in (("image", row.media["image_slot"]), ("vector", row.values["proprio_slot"])):
        fields[name] = [slot - start for slot in slots if slot in where]
    inside = np.isin(row.values["action_slot"], where)
    fields |= {f"own {name}": row.values[name][inside] for name in ("action", "action_mask", "embodiment")}
    fields["action_slot"] = row.values["action_slot"][inside] - start
    fields["pixels"] = row.media["image"][np.isin(row.media["image_slot"], where)]
    spans = row.span_ids[where]
    fields["spans"] = np.where(spans > 0, spans - spans[spans > 0].min(initial=1 << 30) + 1, 0)
    return fields


@given(st.lists(DOCUMENTS, min_size=1, max_size=5))
def test_a_packed_row_gives_each_document_back_as_if_it_were_alone(documents):
    shape = RowShape(200, 40, (2, 3), vectors=40, chunk=2, width=4, image_id=8, vector_id=9)
    row = lay_out(documents, shape)
    assert row.segment_ids.max() == len(documents)
    for k, document in enumerate(documents, start=1):
        cost = cost_of(document)
        assert (row.segment_ids == k).sum() == cost.slots
        np.testing.assert_equal(_fields(row, k), _fields(lay_out([document], shape), 1))
    assert len(set(row.span_ids[row.span_ids > 0])) == sum(cost_of(d).images for d in documents)
    used = (row.values["action_slot"] != NO_SLOT) | (row.values["proprio_slot"] != NO_SLOT)
    assert used.sum() == sum(cost_of(d).vectors for d in documents)
    padding = row.segment_ids == 0
    assert not any(getattr(row, n)[padding].any() for n in ("tokens", "positions", "loss_weights", "kinds", "span_ids"))


def test_costs_count_slots_images_and_vector_rows():
    assert cost_of(ROBOT) == Cost(slots=7, images=1, vectors=1)
    assert cost_of(TEXT) == Cost(slots=4)
    assert KINDS[lay_out([ROBOT], SHAPE).kinds[6]] == "action"


def test_rows_are_stacked_into_a_batch():
    batch = collate([lay_out([TEXT], SHAPE), lay_out([ROBOT, TEXT], SHAPE)])
    assert batch.tokens.shape == (2, 40)
    assert batch.media["image"].shape == (2, 5, 2, 3, 3)
    assert batch.values["action"].shape == (2, 6, 2, 4)
    np.testing.assert_array_equal(batch.positions[1, :11], [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3])


def test_documents_that_do_not_fit_are_refused():
    nan = Vector(np.array([np.nan], np.float32), 0)
    hidden_nan = Chunk(np.array([[1.0], [np.nan]], np.float32), np.array([[True], [False]]), 0)
    for document, match in (
        ((_tokens([1] * 41),), r"need \(41, 0, 0\) slots, images and vectors; the row holds \(40, 5, 6\)"),
        ((_image(0),) * 6, r"need \(12, 6, 0\)"),
        ((_chunk(),), "begins with a Chunk"),
        ((_tokens([1]), _chunk(width=5)), "an action chunk is 5 wide, the row takes up to 4"),
        ((Vector(np.zeros(9, np.float32), 0),), "a vector is 9 wide"),
        ((_tokens([1]), Chunk(np.zeros((3, 1)), np.zeros((3, 1), bool), 0)), r"values \[3, 1\].*2 steps"),
        ((Image(np.zeros((3, 3, 3), np.uint8), 1),), r"an image is uint8\[3, 3, 3\], the row takes uint8\[2, 3, 3\]"),
        ((Image(np.zeros((2, 3, 3), np.float32), 1),), "an image is float32"),
    ):
        with pytest.raises(ValueError, match=match):
            lay_out([document], SHAPE)
    with pytest.raises(CorruptRecord, match="a vector holds a value that is not finite"):
        lay_out([(nan,)], SHAPE)
    assert np.isfinite(lay_out([(_tokens([1]), hidden_nan)], SHAPE).values["action"]).all()
