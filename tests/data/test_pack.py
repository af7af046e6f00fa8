import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.mixture import Mixture
from data.pack import PackedStream, pack

CAPACITY = (64, 4, 6)
COST = st.tuples(st.integers(1, 64), st.integers(0, 4), st.integers(0, 6))


class Costs:
    def __init__(self, cost_N3):
        self.cost_N3 = np.asarray(cost_N3, np.int32)

    def __len__(self):
        return len(self.cost_N3)

    def costs(self):
        return self.cost_N3

    def __getitem__(self, index):
        raise AssertionError("nothing may be decoded")


def _one_at_a_time(cost_N3, capacity):
    """Best fit, plainly: the same order, one document after the other."""
    weight = cost_N3.sum(0) * 2**20 // np.maximum(capacity, 1) ** 2
    order = sorted(range(len(cost_N3)), key=lambda i: (-(cost_N3[i] * weight).sum(), *cost_N3[i][::-1], i))
    rows, row_of = [], [0] * len(cost_N3)
    for i in order:
        fitting = [r for r, free in enumerate(rows) if (free >= cost_N3[i]).all()]
        if not fitting:
            rows.append(np.array(capacity))
            fitting = [len(rows) - 1]
        row_of[i] = min(fitting, key=lambda r: (rows[r][0], r))
        rows[row_of[i]] = rows[row_of[i]] - cost_N3[i]
    return row_of


@given(st.lists(COST, min_size=1, max_size=60))
def test_every_document_gets_one_row_and_no_row_overflows(costs):
    row_N = pack(np.array(costs), CAPACITY)
    assert len(row_N) == len(costs)
    assert set(row_N) == set(range(max(row_N) + 1))
    for row in set(row_N):
        assert (np.array(costs)[row_N == row].sum(0) <= CAPACITY).all()


@given(st.lists(COST, min_size=1, max_size=40))
def test_placing_equal_documents_together_is_best_fit(costs):
    assert pack(np.array(costs), CAPACITY).tolist() == _one_at_a_time(np.array(costs), CAPACITY)


@given(st.lists(COST, min_size=1, max_size=30), st.integers(0, 2**32), st.integers(1, 40))
def test_the_rows_of_a_window_hold_its_documents_and_no_others(costs, seed, window):
    mixture = Mixture({"a": Costs(costs)}, {"a": 1.0}, seed, window)
    stream = PackedStream(mixture, CAPACITY)
    row = 0
    for w in range(3):
        expected = sorted(mixture.window(w)[1].tolist())
        found = []
        while len(found) < len(expected):
            found += [index for _, index, _ in stream.row(row)]
            row += 1
        assert sorted(found) == expected


def test_any_row_is_the_same_whatever_was_read_before():
    random = np.random.default_rng(0)
    mixture = Mixture({"a": Costs(random.integers(1, 5, (99, 3)) * [9, 1, 1])}, {"a": 1.0}, seed=3, window=50)
    in_order = PackedStream(mixture, CAPACITY)
    rows = [in_order.row(r) for r in range(200)]
    for r in random.permutation(200)[:20]:
        assert PackedStream(mixture, CAPACITY).row(int(r)) == rows[r]
        assert in_order.row(int(r)) == rows[r]


def test_full_and_partial_rows_are_shuffled():
    costs = [[64, 0, 0]] * 50 + [[16, 1, 1]] * 200
    stream = PackedStream(Mixture({"a": Costs(costs)}, {"a": 1.0}, seed=0, window=250), CAPACITY)
    alone = [len(stream.row(r)) == 1 for r in range(100)]
    assert 15 < sum(alone[:50]) < 35


def _text_and_episodes(random):
    """Costs like those of continued text in rows of 512 and of short episodes with 1 to 3 images."""
    images = random.integers(1, 4, 5000)
    episodes = np.stack([16 * images + random.integers(8, 80, 5000), images, np.ones_like(images)], axis=1)
    speeches = np.minimum(512, np.exp(random.normal(5, 1, 3000)).astype(int) + 2)
    zero = np.zeros_like(speeches)
    return {"text": Costs(np.stack([speeches, zero, zero], axis=1)), "episodes": Costs(episodes)}


def test_rows_are_more_than_95_percent_full():
    sources = _text_and_episodes(np.random.default_rng(0))
    both = PackedStream(Mixture(sources, {"text": 0.5, "episodes": 0.5}, 0), (512, 16, 16))
    assert both.efficiency() > 0.97
    robots = PackedStream(Mixture({"e": sources["episodes"]}, {"e": 1.0}, 0), (512, 16, 16))
    assert robots.efficiency() > 0.95


def test_a_hundred_thousand_documents_are_planned_quickly():
    sources = _text_and_episodes(np.random.default_rng(0))
    stream = PackedStream(Mixture(sources, {"text": 0.5, "episodes": 0.5}, 0), (512, 16, 16))
    began = time.process_time()
    documents, row = 0, 0
    while documents < 25 * 4096:
        documents += len(stream.row(row))
        row += 1
    assert time.process_time() - began < 3  # 0.6 s where it was measured


@pytest.mark.parametrize("cost", [(65, 0, 0), (5, 5, 0), (5, 0, 7), (0, 1, 0)])
def test_a_document_that_fits_no_row_is_refused_up_front(cost):
    mixture = Mixture({"fine": Costs([[1, 0, 0]]), "big": Costs([[9, 1, 1], cost, cost])}, {"fine": 1, "big": 1}, 0)
    named = ", ".join(f"{n} {what}" for n, what in zip(cost, ("slots", "images", "vectors"), strict=True))
    message = f"source 'big': 2 of 3 .* first document 1 with {named}; a row holds 64 slots, 4 images, 6 vectors"
    with pytest.raises(ValueError, match=message):
        PackedStream(mixture, CAPACITY)
