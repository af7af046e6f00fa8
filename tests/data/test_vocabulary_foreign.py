"""SentencePiece models of other libraries: their own ids, for text; codes after them as usual."""

import io
import pathlib
import pickle

import pytest
import sentencepiece

from data.config import PipelineConfig, VocabularyConfig
from data.vocabulary import Vocabulary, only_adds_codes

TEXT = (pathlib.Path(__file__).parents[1] / "assets/text/shakespeare.txt").read_text()[:40_000]
GEMMA = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "user_defined_symbols": ["<start_of_turn>"]}
SAMPLES = ("To be, or  not", " what's this?\n", "", "<start_of_turn>", "日本 ﬁ")


def trained(**settings) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXT.splitlines()), model_writer=model, vocab_size=400, minloglevel=2, **settings
    )
    return model.getvalue()


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def foreign(request):
    """Byte pairs with a space before, as Llama has them; unigrams without, with Gemma's ids."""
    settings = {} if request.param == "bpe" else {**GEMMA, "add_dummy_prefix": False, "byte_fallback": True}
    return trained(model_type=request.param, **settings)


def test_text_has_the_ids_of_the_library_itself(foreign):
    vocabulary, library = Vocabulary(foreign), sentencepiece.SentencePieceProcessor(model_proto=foreign)
    for text in SAMPLES:
        ids = library.encode(text)
        assert vocabulary.encode(text) == ids
        assert vocabulary.decode(ids) == library.decode(ids)
    assert (vocabulary.bos_id, vocabulary.eos_id) == (library.bos_id(), library.eos_id())
    assert vocabulary.pad_id == max(library.pad_id(), 0)
    assert vocabulary.adds_space == library.id_to_piece(library.encode("a"))[0].startswith("▁")


def test_a_text_cut_anywhere_decodes_to_its_parts(foreign):
    vocabulary = Vocabulary(foreign)
    ids = vocabulary.encode("To be, or not to be, that is the question")
    for cut in range(1, len(ids)):
        assert vocabulary.decode(ids[:cut]) + vocabulary.decode(ids[cut:], continues=True) == vocabulary.decode(ids)
    assert vocabulary.decode([], continues=True) == ""
    assert vocabulary.decode([vocabulary.eos_id, *ids], continues=True).strip() == vocabulary.decode(ids)


def test_codes_come_after_the_rows_that_no_piece_has(foreign):
    vocabulary = Vocabulary(foreign, num_codes=5, num_unused=7)
    assert (vocabulary.text_size, vocabulary.size) == (400, 412)
    assert [vocabulary.code_id(k) for k in (0, 4)] == [407, 411]
    assert vocabulary.code_of(407) == 0
    assert vocabulary.decode([vocabulary.bos_id, *vocabulary.encode("hark"), 401, 408]) == "hark"
    with pytest.raises(ValueError, match="id 406 is no code: codes are 407 to 411"):
        vocabulary.code_of(406)


def test_symbols_that_it_has_are_found_and_ours_are_missing_by_name():
    gemma = Vocabulary(trained(model_type="unigram", **GEMMA))
    assert gemma.piece_id("<start_of_turn>") == 4
    with pytest.raises(ValueError, match=r"no piece '<action>'; it is of another library and serves for text"):
        gemma.piece_id("<action>")
    assert PipelineConfig(batch_size=1, slots=8).row_shape(gemma).pad_id == 0
    rows = PipelineConfig(batch_size=1, slots=8, images=1, image_size=(4, 4))
    assert rows.row_shape(gemma).image_id == gemma.image_id  # it needs no symbol of ours
    with pytest.raises(ValueError, match="no piece '<proprio>'"):
        PipelineConfig(batch_size=1, slots=8, vectors=1, width=2).row_shape(gemma)


def test_bytes_pickles_and_the_file_of_a_checkpoint_carry_it(foreign, tmp_path):
    vocabulary = Vocabulary(foreign, num_codes=10, num_unused=7)  # 10 is how a SentencePiece model begins
    file = tmp_path / "tokenizer.model"
    file.write_bytes(vocabulary.serialized)
    copies = [
        Vocabulary.from_bytes(vocabulary.serialized),
        pickle.loads(pickle.dumps(vocabulary)),
        VocabularyConfig(path=str(file), num_codes=10).build(),
    ]
    for copy in copies:
        copy.require(vocabulary.hash)
    assert VocabularyConfig(path=str(file)).build().size == 407
    vocabulary.save(file)
    assert (file.read_bytes(), Vocabulary.load(file).size) == (foreign, 400)


def test_more_codes_change_no_other_id(foreign):
    old = Vocabulary(foreign, num_codes=2, num_unused=7).serialized
    assert only_adds_codes(old, Vocabulary(foreign, num_codes=3, num_unused=7).serialized)
    assert only_adds_codes(old, old)
    assert not only_adds_codes(old, Vocabulary(foreign, num_codes=1, num_unused=7).serialized)
    assert not only_adds_codes(old, Vocabulary(foreign, num_codes=3, num_unused=8).serialized)
    assert not only_adds_codes(old, Vocabulary.train([TEXT], 400, num_codes=3).serialized)


def test_a_model_without_a_beginning_or_an_end_is_refused():
    with pytest.raises(ValueError, match="has no bos piece, with which documents begin and end"):
        Vocabulary(trained(model_type="bpe", bos_id=-1))
