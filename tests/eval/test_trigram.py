from __future__ import annotations

import collections
import math
import pathlib

import numpy as np
import pytest

from eval.trigram import Trigram

SHAKESPEARE = pathlib.Path(__file__).parents[1] / "assets/text/shakespeare.txt"


def naive_probability(train: bytes, context: bytes, byte: int) -> float:
    """Modified Kneser-Ney by its definition, with dictionaries and recursion."""

    def grams(n):
        return [train[i : i + n] for i in range(len(train) - n + 1)]

    def probability(context, byte):
        n = len(context) + 1
        counts = collections.Counter(grams(3)) if n == 3 else collections.Counter(g[1:] for g in set(grams(n + 1)))
        histogram = collections.Counter(counts.values())
        n1, n2, n3, n4 = (max(histogram[k], 1) for k in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2)
        raw = [0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        discount = [0.0] + [min(max(raw[k], 0.05), k) for k in (1, 2, 3)]
        shorter = probability(context[1:], byte) if context else 1 / 256
        here = {gram: count for gram, count in counts.items() if gram[:-1] == context}
        if not here:
            return shorter
        own = here.get(context + bytes([byte]), 0)
        freed = sum(discount[min(count, 3)] for count in here.values())
        return (own - discount[min(own, 3)] + freed * shorter) / sum(here.values())

    return probability(context, byte)


def test_it_equals_the_definition_written_with_dictionaries():
    random = np.random.default_rng(0)
    train = bytes(random.choice(list(b"abcd \n"), 400, p=[0.4, 0.25, 0.15, 0.1, 0.07, 0.03]))
    held_out = b"abca dazz\xff\nab"
    want = [naive_probability(train, held_out[max(i - 2, 0) : i], held_out[i]) for i in range(len(held_out))]
    np.testing.assert_allclose(Trigram(train).probabilities(held_out), want, rtol=1e-12)


def test_a_text_of_one_letter_gives_the_values_worked_out_by_hand():
    # "aaaa": the trigram occurs twice, the bigram and the letter each follow one distinct byte. With n1 .. n4 raised to
    # at least 1, Y = 1/3 and the discounts of 1, 2 and 3 are 1/3, 1 and 5/3.
    unigram = (1 - 1 / 3) + (1 / 3) / 256
    bigram = (1 - 1 / 3) + (1 / 3) * unigram
    trigram = ((2 - 1) + 1 * bigram) / 2
    model = Trigram(b"aaaa")
    np.testing.assert_allclose(model.probabilities(b"aaa"), [unigram, bigram, trigram], rtol=1e-12)
    assert model.bits_per_byte(b"aaa") == pytest.approx(-math.log2(unigram * bigram * trigram) / 3)
    unseen = 1 / 3 / 256
    np.testing.assert_allclose(model.probabilities(b"b"), [unseen], rtol=1e-12)


@pytest.mark.parametrize("context", [b"", b"t", b"th", b"zq", b"\x00\xff"])
def test_the_256_probabilities_after_any_context_sum_to_one(context):
    model = Trigram(b"the cat sat on the mat and then the rat ate the bat")
    total = sum(model.probabilities(context + bytes([byte]))[-1] for byte in range(256))
    assert total == pytest.approx(1, abs=1e-12)


def test_random_bytes_cannot_be_compressed():
    data = np.random.default_rng(0).bytes(200_000)
    assert 7.99 < Trigram(data[:100_000]).bits_per_byte(data[100_000:]) < 8.1


def test_texts_that_are_too_short_are_refused():
    with pytest.raises(ValueError, match="has 2 bytes"):
        Trigram(b"ab")
    with pytest.raises(ValueError, match="held-out text is empty"):
        Trigram(b"abc").bits_per_byte(b"")


def test_a_megabyte_of_shakespeare_takes_under_three_bits_a_byte():
    text = SHAKESPEARE.read_bytes()
    cut = len(text) * 9 // 10
    bits = Trigram(text[:cut]).bits_per_byte(text[cut:])
    assert bits == pytest.approx(2.9413, abs=1e-3)
