import pathlib
import pickle
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data.vocabulary import MINIMUM_SIZE, SPECIAL, SYMBOLS, Vocabulary

CORPUS = pathlib.Path(__file__).parents[1] / "assets/text/shakespeare.txt"
TEXT = CORPUS.read_text()[:200_000]


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train([TEXT], size=512, num_codes=64)


def test_ids_are_special_symbols_bytes_pieces_then_codes(vocabulary):
    assert (vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id) == (0, 1, 2)
    assert [vocabulary.piece_id(name) for name in (*SPECIAL, *SYMBOLS)] == list(range(len(SPECIAL) + len(SYMBOLS)))
    assert (vocabulary.text_size, vocabulary.size) == (512, 576)
    assert [vocabulary.code_id(k) for k in (0, 63)] == [512, 575]
    assert [vocabulary.code_of(i) for i in (512, 575)] == [0, 63]


def test_a_real_corpus_comes_back_exactly_and_shorter(vocabulary):
    ids = vocabulary.encode(TEXT)
    assert vocabulary.decode(ids) == TEXT
    assert len(ids) < 0.6 * len(TEXT.encode())


@given(st.text())
@example("  two spaces, a\ttab\r\n\nlines ")
@example("▁a▁▁b ▁")  # the character that SentencePiece writes for a space
@example("\x00\ufeff\u2028\U0010ffff日本語🙂e\u0301")
def test_any_unicode_comes_back_exactly(vocabulary, text):
    assert vocabulary.decode(vocabulary.encode(text)) == text


@given(st.lists(st.sampled_from((*SPECIAL, *SYMBOLS, "<0x41>", "x"))).map("".join))
def test_text_that_spells_a_symbol_stays_text(vocabulary, text):
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert all(i >= len(SPECIAL) + len(SYMBOLS) for i in ids)


def test_digits_are_never_merged():
    trained = Vocabulary.train(["in 1603 and 1603 and 1603, " * 100], MINIMUM_SIZE + 16)
    assert len(trained.encode("1603")) == 4


def test_decoding_leaves_out_codes_and_symbols(vocabulary):
    ids = [vocabulary.bos_id, vocabulary.piece_id("<action>"), vocabulary.code_id(5), *vocabulary.encode("hark")]
    assert vocabulary.decode(ids) == "hark"


def test_the_same_text_trains_the_same_bytes(vocabulary):
    assert Vocabulary.train([TEXT], size=512, num_codes=64).serialized == vocabulary.serialized


def test_bytes_files_and_pickles_carry_it(vocabulary, tmp_path):
    vocabulary.save(tmp_path / "deep/v.model")
    copies = [
        Vocabulary.from_bytes(vocabulary.serialized),
        Vocabulary.load(tmp_path / "deep/v.model", num_codes=64),
        pickle.loads(pickle.dumps(vocabulary)),
    ]
    for copy in copies:
        copy.require(vocabulary.hash)
        assert copy.encode("To be") == vocabulary.encode("To be")


def test_another_vocabulary_is_refused(vocabulary):
    with pytest.raises(ValueError, match=r"512 text ids \+ 63 codes.* is not the one expected.*vocabulary.num_codes"):
        Vocabulary.from_bytes((63).to_bytes(8, "little") + vocabulary.serialized[8:]).require(vocabulary.hash)


def test_mistakes_are_named(vocabulary, tmp_path):
    with pytest.raises(ValueError, match=f"size 100 is too small.*{MINIMUM_SIZE}"):
        Vocabulary.train([TEXT], size=100)
    with pytest.raises(ValueError, match=r"size 5000 on this text.*Vocabulary size too high"):
        Vocabulary.train(["too little text"], size=5000)
    with pytest.raises(ValueError, match="every document is empty"):
        Vocabulary.train(["", ""], size=512)
    with pytest.raises(ValueError, match=r"no vocabulary at .*nothing\.model"):
        Vocabulary.load(tmp_path / "nothing.model")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        Vocabulary(b"not a model")
    with pytest.raises(ValueError, match=r"code 64 is outside 0..63"):
        vocabulary.code_id(64)
    with pytest.raises(ValueError, match="id 511 is no code"):
        vocabulary.code_of(511)
    with pytest.raises(ValueError, match="no piece '<dance>'"):
        vocabulary.piece_id("<dance>")
    with pytest.raises(ValueError, match="id 576 is outside"):
        vocabulary.decode([576])


def test_the_command_trains_one(vocabulary, tmp_path):
    (tmp_path / "part.txt").write_text(TEXT)
    command = [sys.executable, "-m", "data.vocabulary", "--input", str(tmp_path / "*.txt"), "--size", "512"]
    subprocess.run([*command, "--out", str(tmp_path / "v.model")], check=True, cwd=CORPUS.parents[3])
    assert Vocabulary.load(tmp_path / "v.model", num_codes=64).hash == vocabulary.hash
