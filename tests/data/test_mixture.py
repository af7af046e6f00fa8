import dataclasses

import numpy as np
import pytest

from data.mixture import Mixture
from data.permutation import permute, scramble


@dataclasses.dataclass
class Costs:
    """A source of which only the costs are looked at."""

    slots: list[int]

    def __len__(self):
        return len(self.slots)

    def costs(self):
        return np.stack([self.slots, np.zeros_like(self.slots), np.zeros_like(self.slots)], axis=1).astype(np.int32)

    def __getitem__(self, index):
        raise AssertionError("nothing may be decoded")


def _stream(mixture, windows):
    """[(source, index)] of the first windows."""
    parts = [mixture.window(w) for w in range(windows)]
    return [
        (mixture.names[s], int(i)) for source_W, index_W, _ in parts for s, i in zip(source_W, index_W, strict=True)
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_permute_is_a_permutation(size):
    for key in (0, 7, 2**64 - 1):
        assert sorted(permute(np.arange(size), size, key)) == list(range(size))


def test_scramble_is_splitmix64():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]  # its first outputs for seed 1234567
    assert scramble(np.array([1, 2, 3]), 1234567).tolist() == published


def test_permute_is_the_same_on_every_machine_and_in_every_version():
    assert permute(np.arange(10), 10, 1).tolist() == [9, 0, 5, 4, 2, 6, 7, 3, 1, 8]


def test_permute_spreads_evenly():
    places = np.array([permute(np.arange(8), 8, key) for key in range(4000)])
    counts = np.array([np.bincount(places[:, i], minlength=8) for i in range(8)])
    assert (abs(counts - 500) < 110).all()  # 5 standard deviations


def test_every_epoch_visits_each_document_once_in_another_order():
    mixture = Mixture({"a": Costs([1] * 50)}, {"a": 1.0}, seed=0, window=32)
    visits = [index for _, index in _stream(mixture, 25)]  # 16 epochs
    epochs = [visits[e * 50 : (e + 1) * 50] for e in range(16)]
    # Inside a window visits are shuffled: compare whole multiples of window and epoch.
    counts = np.bincount(visits, minlength=50)
    assert (counts == 16).all()
    assert len({tuple(epoch) for epoch in epochs}) == 16


def test_every_visit_is_told_its_epoch():
    mixture = Mixture({"a": Costs([1] * 50), "b": Costs([1] * 7)}, {"a": 1.0, "b": 1.0}, seed=0, window=32)
    windows = [mixture.window(w) for w in range(25)]  # 400 visits of each: 8 epochs of a, 57 and one visit of b
    seen = {0: [], 1: []}
    for source_W, index_W, epoch_W in windows:
        for source, index, epoch in zip(source_W, index_W, epoch_W, strict=True):
            seen[int(source)].append((int(epoch), int(index)))
    assert sorted(seen[0]) == [(epoch, index) for epoch in range(8) for index in range(50)]
    assert len(set(seen[1])) == 400
    assert [epoch for epoch, _ in sorted(seen[1])] == [k // 7 for k in range(400)]


def test_weights_are_shares_of_slots():
    sources = {"text": Costs([512] * 30), "robot": Costs([40, 60]), "other": Costs([8, 16, 24])}
    weights = {"text": 2.0, "robot": 1.0, "other": 1.0}
    mixture = Mixture(sources, weights, seed=1, window=4096)
    slots = dict.fromkeys(sources, 0)
    for name, index in _stream(mixture, 5):
        slots[name] += sources[name].slots[index]
    total = sum(slots.values())
    for name, weight in weights.items():
        assert slots[name] / total == pytest.approx(weight / 4, rel=0.01)


def test_every_window_is_a_pure_function_of_the_seed():
    sources = {"a": Costs([3] * 70), "b": Costs([5, 6, 7])}
    first, reordered = (
        Mixture(dict(items), {"b": 0.5, "a": 0.5}, seed=4, window=64)
        for items in (sources.items(), reversed(sources.items()))
    )
    far = first.window(1000)
    np.testing.assert_equal(reordered.window(1000), far)
    np.testing.assert_equal(first.window(1000), far)
    other = Mixture(sources, {"a": 0.5, "b": 0.5}, seed=5, window=64)
    assert not np.array_equal(other.window(0)[1], first.window(0)[1])


def test_sources_are_interleaved_not_in_blocks():
    mixture = Mixture({"a": Costs([1] * 9), "b": Costs([1] * 9)}, {"a": 1, "b": 1}, seed=0, window=1024)
    source_W = mixture.window(3)[0]
    changes = np.count_nonzero(np.diff(source_W))
    assert 400 < changes < 620  # 512 expected of independent draws


def test_mistakes_are_named():
    a, none = Costs([1000]), Costs([])
    for sources, weights, match in (
        ({"a": a}, {"b": 1.0}, r"weights name \['b'\], the sources are \['a'\]"),
        ({}, {}, "give one for each"),
        ({"a": a}, {"a": 0.0}, "positive and finite, got a=0.0; leave out"),
        ({"a": a}, {"a": float("nan")}, "positive and finite"),
        ({"a": a, "none": none}, {"a": 1.0, "none": 1.0}, "without a single document: none"),
        (
            {"a": a, "b": Costs([1])},
            {"a": 0.5, "b": 0.5},
            "source 'a': its weight comes to 0.064 .* or window to 2002 ",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            Mixture(sources, weights, seed=0, window=64)
