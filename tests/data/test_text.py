import concurrent.futures
import pathlib
import pickle
import threading

import numpy as np
import pytest

from data import token_cache
from data.records import TextFiles
from data.text import TextSource
from data.vocabulary import Vocabulary

CORPUS = pathlib.Path(__file__).parents[1] / "assets/text/shakespeare.txt"
TEXT = CORPUS.read_text()[:60_000]
SPEECHES = TEXT.split("\n\n")


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train([TEXT], size=400)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "plays.txt"
    path.write_text(TEXT)
    return path


def _source(file, vocabulary, length=32, separator="\n\n", **settings):
    return TextSource(
        TextFiles((str(file),), separator=separator), vocabulary, length, file.parent / "cache", **settings
    )


def _joined(source):
    """Documents put together again from their pieces: each piece begins with the last token of the one before."""
    documents = []
    for i in range(len(source)):
        (tokens,) = source[i]
        ids = tokens.ids.tolist()
        if ids[0] == 1:
            documents.append(ids)
        else:
            assert documents[-1][-1] == ids[0]
            documents[-1] += ids[1:]
    return documents


@pytest.mark.parametrize("length", [2, 3, 32, 100_000])
def test_documents_are_continued_and_nothing_is_cut_off(file, vocabulary, length):
    source = _source(file, vocabulary, length)
    assert _joined(source) == [[1, *vocabulary.encode(speech), 2] for speech in SPEECHES if speech]


def test_every_token_after_bos_is_a_target_exactly_once(file, vocabulary):
    source = _source(file, vocabulary, weight=0.5)
    weights = np.concatenate([source[i][0].weights for i in range(len(source))])
    assert set(weights) == {0, 0.5}
    assert np.count_nonzero(weights) == sum(len(vocabulary.encode(s)) + 1 for s in SPEECHES if s)


def test_costs_are_the_lengths_of_the_pieces(file, vocabulary):
    source = _source(file, vocabulary)
    np.testing.assert_array_equal(source.costs(), [[len(source[i][0].ids), 0, 0] for i in range(len(source))])
    assert source.costs().dtype == np.int32


def test_one_document_is_cut_in_two_and_its_end_held_out(file, vocabulary):
    train, held = (_source(file, vocabulary, separator="", holdout=0.1, split=s) for s in ("train", "validation"))
    assert list(train.texts()) == [TEXT[:54_000]]
    assert list(held.texts()) == [TEXT[54_000:]]
    assert held.num_bytes == 6_000


def test_many_documents_are_held_out_by_what_they_say(file, vocabulary):
    train, held = (list(_source(file, vocabulary, holdout=0.3, split=s).texts()) for s in ("train", "validation"))
    assert sorted(train + held) == sorted(filter(None, SPEECHES))
    assert not set(train) & set(held)
    assert 0.2 < len(held) / len(train + held) < 0.4
    file.write_text("\n\n".join(reversed(SPEECHES)))  # neither order nor neighbours matter
    assert set(_source(file, vocabulary, holdout=0.3, split="validation").texts()) == set(held)


def test_tokens_are_made_once_and_found_by_content(file, vocabulary, monkeypatch):
    first = _source(file, vocabulary)
    file = file.rename(file.with_name("moved.txt"))
    with monkeypatch.context() as patch:
        patch.setattr(Vocabulary, "encode", lambda *_: pytest.fail("tokenised again"))
        again = _source(file, vocabulary, length=50)
    assert _joined(again) == _joined(first)
    file.write_text(TEXT + "Exeunt")
    assert _joined(_source(file, vocabulary)) != _joined(first)
    other = Vocabulary.train([TEXT], size=350)
    assert _joined(_source(file, other)) != _joined(_source(file, vocabulary))
    assert len(list((file.parent / "cache").iterdir())) == 3


def test_two_may_fill_the_cache_at_once(file, vocabulary, monkeypatch):
    both_written, write = threading.Barrier(2, timeout=120), token_cache._write

    def write_and_wait(*arguments):
        write(*arguments)
        both_written.wait()

    monkeypatch.setattr(token_cache, "_write", write_and_wait)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: _joined(_source(file, vocabulary)), range(2))
    assert first == second
    assert len(list((file.parent / "cache").iterdir())) == 1


def test_a_failure_leaves_no_half_written_cache(file, vocabulary, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("numpy.save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            _source(file, vocabulary)
    assert not list((file.parent / "cache").iterdir())
    assert len(_source(file, vocabulary)) > 0


def test_a_pickle_holds_no_tokens(file, vocabulary):
    source = _source(file, vocabulary)
    data = pickle.dumps(source)
    assert len(data) < 60_000  # most of it the vocabulary
    assert _joined(pickle.loads(data)) == _joined(source)


def test_unreadable_records_are_counted_named_and_limited(file, vocabulary):
    file.write_bytes(b"sound\n\n\xff\xff\n\nsound too")
    source = _source(file, vocabulary, max_corrupt=1)
    assert list(source.texts()) == ["sound", "sound too"]
    with pytest.raises(ValueError, match=r"1 unreadable records, max_corrupt is 0:\n.*plays.txt, record 1: Unicode"):
        _source(file, vocabulary)


def test_mistakes_are_named(file, vocabulary):
    for settings, match in (
        ({"length": 1}, "sequence_length must be at least 2"),
        ({"split": "test"}, "split must be train or validation"),
        ({"holdout": 1.0}, r"holdout must be in \[0, 1\)"),
        ({"split": "validation"}, "split 'validation' of .* is empty.*change holdout"),
    ):
        with pytest.raises(ValueError, match=match):
            _source(file, vocabulary, **settings)
    file.write_text("\n\n")
    with pytest.raises(ValueError, match="no text in"):
        _source(file, vocabulary)
