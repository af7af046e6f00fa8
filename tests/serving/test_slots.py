"""Requests that share a batch against the same requests one by one."""

import dataclasses

import numpy as np
import pytest

from configs.schema import parse
from data.elements import Image
from data.vocabulary import Vocabulary
from model.config import ImageConfig, ModelConfig
from serving.decoder import Decoder
from serving.generate import complete
from serving.model import LoadedModel
from serving.prompts import as_document, text_tokens
from serving.sampling import Sampling
from serving.slots import MAX_TOP, Request, Slots
from tests.model.weights import random_states
from tests.serving.machine import chain, letters
from tests.train.tiny_config import ATTENTION, TEXT, model

pytestmark = pytest.mark.usefixtures("quick_compilation")
MAX_SLOTS, PIECE = 126, 32


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train([TEXT.read_text()[:8000]], 384)


@pytest.fixture(scope="module")
def decoder(vocabulary):
    """Every mixer, with a window that is shorter than the prompts, and experts; it takes images."""
    config = parse(
        ModelConfig,
        model(
            num_layers=3,
            pattern=("recurrent", "local", "global"),
            ffn=("dense", "moe"),
            moe={"num_experts": 3, "top_k": 2, "hidden_dim": 8},
            local_attention=ATTENTION | {"window": 8},
            image=dataclasses.asdict(ImageConfig(height=16, width=16, patch_size=8, stem_dim=8)),
        ),
    )
    loaded = LoadedModel(config, vocabulary, {}, *random_states(config, vocabulary.size, seed=4, std=0.4))
    return Decoder(loaded, piece=PIECE)


@pytest.fixture(scope="module")
def slots(decoder):
    return Slots(decoder, num_rows=2, max_slots=MAX_SLOTS, block=4)


def prompt(vocabulary, length, seed=0):
    ids = np.random.default_rng(seed).integers(280, 384, length - 1)
    return (text_tokens([vocabulary.bos_id, *ids.tolist()]),)


def drain(slots):
    while slots.busy:
        slots.turn()


def assert_alike(completion, request, decoder):
    """The completion is the one that the library gives to this request alone."""
    options = {"num_tokens": request.num_tokens, "stop": request.stop}
    (alone,) = complete(decoder, [request.document], [request.sampling], **options)
    assert (completion.ids, completion.text, completion.ended) == (alone.ids, alone.text, alone.ended)
    np.testing.assert_allclose(completion.logprobs, alone.logprobs, atol=2e-4)


def test_a_request_gets_the_same_whoever_shares_the_batch(slots, decoder, vocabulary):
    """Six requests over two rows, coming one by one; a prompt of three pieces; every way to sample."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    between = (*prompt(vocabulary, 26), Image(pixels, 4)) * 3
    requests = [
        Request(prompt(vocabulary, 75, seed=1), Sampling(temperature=0), num_tokens=9),
        Request(prompt(vocabulary, 5, seed=2), Sampling(temperature=1, seed=7), num_tokens=14),
        Request(prompt(vocabulary, 33, seed=3), Sampling(temperature=1, top_p=0.6, seed=8), num_tokens=3),
        Request(prompt(vocabulary, 40, seed=4), Sampling(temperature=0.7, top_k=5, seed=9), num_tokens=6, num_top=3),
        Request((*prompt(vocabulary, 3), Image(pixels, 4)), Sampling(temperature=1, seed=10), num_tokens=7),
        # Pieces would end inside each image, and the last one has padding for which the row has no room.
        Request((*prompt(vocabulary, 30), Image(pixels, 4), *between), Sampling(temperature=0), num_tokens=2),
    ]
    tickets = []
    for request in requests:
        tickets.append(slots.submit(request))
        slots.turn()
    drain(slots)
    for ticket, request in zip(tickets, requests, strict=True):
        assert_alike(ticket.completion, request, decoder)
    for ticket in tickets:
        assert all(len(top) == ticket.request.num_top for top in ticket.completion.tops)


def test_the_most_likely_tokens_are_in_order_and_hold_the_greedy_one(slots, vocabulary):
    ticket = slots.submit(Request(prompt(vocabulary, 6), Sampling(temperature=0), num_tokens=5, num_top=MAX_TOP))
    drain(slots)
    completion = ticket.completion
    for token, logprob, top in zip(completion.ids, completion.logprobs, completion.tops, strict=True):
        assert top[0] == (token, logprob)
        assert [p for _, p in top] == sorted((p for _, p in top), reverse=True)
        assert len({i for i, _ in top}) == MAX_TOP


def test_a_long_prompt_does_not_stop_those_that_draw(slots, vocabulary):
    first = slots.submit(Request(prompt(vocabulary, 5), Sampling(temperature=0), num_tokens=40))
    slots.turn()
    second = slots.submit(Request(prompt(vocabulary, 90), Sampling(temperature=0), num_tokens=2))
    lengths = []
    while not second.completion.ids:
        slots.turn()
        lengths.append(len(first.completion.ids))
    assert lengths == [8, 12, 16]  # a block for each of the three pieces
    drain(slots)


def test_a_cancelled_request_leaves_its_row_to_the_next(slots, decoder, vocabulary):
    request = Request(prompt(vocabulary, 5), Sampling(temperature=1, seed=3), num_tokens=60)
    running, other, waiting, gone = (slots.submit(request) for _ in range(4))
    slots.turn()
    slots.turn()
    assert slots.num_active == 2
    slots.cancel(gone)
    slots.cancel(running)
    assert slots.num_active == 1
    before = len(running.completion.ids)
    slots.turn()
    assert waiting.completion.ids
    drain(slots)
    assert len(running.completion.ids) == before < 60
    assert not gone.completion.ids
    assert_alike(waiting.completion, request, decoder)
    assert_alike(other.completion, request, decoder)


def test_a_prompt_cancelled_while_it_is_read_leaves_its_row(slots, decoder, vocabulary):
    ticket = slots.submit(Request(prompt(vocabulary, 90), Sampling(), num_tokens=5))
    slots.turn()
    assert slots.num_active == 1
    slots.cancel(ticket)
    assert not slots.busy
    request = Request(prompt(vocabulary, 7), Sampling(temperature=0), num_tokens=3)
    other = slots.submit(request)
    drain(slots)
    assert_alike(other.completion, request, decoder)


def test_texts_end_where_they_should_each_by_itself(vocabulary):
    a, b, c, d = letters(vocabulary, "abcd")
    slots = Slots(Decoder(chain(vocabulary, (a, b), (b, c), (c, d), (d, a))), num_rows=3, max_slots=20)
    common = {"document": as_document("a", vocabulary), "sampling": Sampling(temperature=0), "num_tokens": 6}
    options = [{}, {"stop": ("cd",)}, {"ends": frozenset([d])}, {"num_tokens": 1}]
    tickets = [slots.submit(Request(**(common | option))) for option in options]
    drain(slots)
    assert [t.completion.text for t in tickets] == ["bcdabc", "b", "bc", "b"]
    assert [t.completion.ended for t in tickets] == ["length", "stop", "stop", "length"]
    assert [len(t.completion.ids) for t in tickets] == [6, 3, 3, 1]


def test_a_row_can_be_filled_to_its_last_slot_and_no_further(slots, decoder, vocabulary):
    request = Request(prompt(vocabulary, 100), Sampling(temperature=0), num_tokens=MAX_SLOTS - 100)
    ticket = slots.submit(request)
    drain(slots)
    assert_alike(ticket.completion, request, decoder)
    with pytest.raises(ValueError, match=r"takes 100 slots and num_tokens is 27: together more than the 126 of a row"):
        slots.submit(dataclasses.replace(request, num_tokens=27))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"document": ()}, "the prompt is empty"),
        ({"num_tokens": 0}, r"num_tokens is 0; allowed: 1 or more"),
        ({"num_top": MAX_TOP + 1}, r"num_top is 21; allowed: 0 to 20"),
        ({"stop": ("a", "")}, "stop holds an empty string"),
    ],
)
def test_requests_that_cannot_be_served_are_refused(slots, vocabulary, change, message):
    request = Request(**({"document": prompt(vocabulary, 5), "sampling": Sampling(), "num_tokens": 5} | change))
    with pytest.raises(ValueError, match=message):
        slots.submit(request)
    assert not slots.busy


def test_after_an_error_the_rows_start_afresh(slots, decoder, vocabulary, monkeypatch):
    request = Request(prompt(vocabulary, 5), Sampling(temperature=0), num_tokens=20)
    lost = [slots.submit(request) for _ in range(3)]
    slots.turn()
    with monkeypatch.context() as patch:
        patch.setattr(slots.decoder, "decode", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            slots.turn()
    assert set(slots.abandon()) == set(lost)
    assert not slots.busy
    ticket = slots.submit(request)
    drain(slots)
    assert_alike(ticket.completion, request, decoder)


def test_compiling_leaves_nobody_behind(vocabulary):
    slots = Slots(Decoder(chain(vocabulary), piece=PIECE), num_rows=2, max_slots=64)
    slots.compile()
    assert not slots.busy
    assert slots.decoder._read._cache_size() >= 1


@pytest.mark.parametrize("field", ["num_rows", "max_slots", "block"])
def test_settings_that_cannot_work_are_refused(decoder, field):
    with pytest.raises(ValueError, match=rf"{field} is 0; allowed: [12] or more"):
        Slots(decoder, **({"num_rows": 1, "max_slots": 8, "block": 1} | {field: 0}))
