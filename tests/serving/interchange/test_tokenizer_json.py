"""The files of HF tokenizers give the ids of the SentencePiece model that they were made from."""

import functools
import json
import subprocess
from pathlib import Path

import pytest

from data.vocabulary import SPECIAL, SYMBOLS, Vocabulary
from serving.interchange.tokenizer_json import FILES, tokenizer_files
from tests.serving.interchange.folders import TEXT, foreign_tokenizer
from tests.serving.interchange.test_export import parity_python

LANGUAGES = Path("tests/assets/text/udhr.txt").read_text()
TEXTS = [
    *LANGUAGES.split("\n\n"),
    *(TEXT[i : i + 400] for i in range(0, 8000, 400)),
    *("", " ", "  two  spaces ", "a\ttab\r\n\nlines\n", " " * 17, "\n\n\n", "1603, 2048", "don't!!", "x" * 60),
    *("日本語🙂e\u0301 ﬁ", "\u00a0no-break\u200bzero", "٣٤٥", "\x00\ufeff\u2028\U0010ffff"),
]
# As Gemma's: no space before, text as it is, what is not in the pieces in bytes.
PLAIN = {"add_dummy_prefix": False, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
VOCABULARIES = {
    "own": lambda: Vocabulary.train([TEXT, LANGUAGES], 1500).model,
    "gemma": lambda: foreign_tokenizer(400, byte_fallback=True, user_defined_symbols=["<turn>", "\n\n", "▁▁"], **PLAIN),
    "llama": lambda: foreign_tokenizer(400, byte_fallback=True, **(PLAIN | {"add_dummy_prefix": True})),
    "bpe": foreign_tokenizer,
    "unigram": lambda: foreign_tokenizer(400, model_type="unigram"),
    "unigram_bytes": lambda: foreign_tokenizer(400, model_type="unigram", byte_fallback=True, **PLAIN),
}


@functools.cache
def vocabulary_of(name: str) -> Vocabulary:
    return Vocabulary(VOCABULARIES[name](), num_unused=3)


def written(folder: Path, name: str) -> Path:
    folder.mkdir()
    for file, content in tokenizer_files(vocabulary_of(name)).items():
        (folder / file).write_text(json.dumps(content, ensure_ascii=False))
    return folder


@pytest.mark.parametrize("name", VOCABULARIES)
def test_the_tokenizers_library_gives_the_same_ids_and_text(name, tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="needs the tokenizers library")
    vocabulary = vocabulary_of(name)
    reader = tokenizers.Tokenizer.from_file(str(written(tmp_path / name, name) / FILES[0]))
    for text in TEXTS:
        ids = vocabulary.encode(text)
        assert reader.encode(text).ids == [vocabulary.bos_id, *ids], text
        if vocabulary.unk_id not in ids:  # where there is one, each library has its own word for it
            assert reader.decode(ids) == vocabulary.decode(ids), text


def test_symbols_are_named_and_no_row_without_a_piece_is(tmp_path):
    whole, config, named = tokenizer_files(vocabulary_of("own")).values()
    assert [token["content"] for token in whole["added_tokens"]] == [*SPECIAL, *SYMBOLS]
    assert all(token["special"] for token in whole["added_tokens"])
    assert named == {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    assert config.items() >= named.items()
    assert len(whole["model"]["vocab"]) == vocabulary_of("own").text_size
    whole = tokenizer_files(vocabulary_of("gemma"))[FILES[0]]
    assert [t["content"] for t in whole["added_tokens"] if not t["special"]] == ["<turn>", "\n\n", "▁▁"]


def test_what_other_libraries_do_not_follow_is_refused_by_name():
    with pytest.raises(ValueError, match="the vocabulary's model_type is 'char'; only vocabularies with 'bpe' and"):
        tokenizer_files(Vocabulary(foreign_tokenizer(60, model_type="char")))
    with pytest.raises(ValueError, match="treat_whitespace_as_suffix is True"):
        tokenizer_files(Vocabulary(foreign_tokenizer(treat_whitespace_as_suffix=True)))


ASK = """
import json, sys
import transformers
found = {}
for folder in sys.argv[3:]:
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    texts = json.load(open(sys.argv[1]))
    ids = [reader.encode(text) for text in texts]
    found[folder] = {"ids": ids, "texts": [reader.decode(i, skip_special_tokens=True) for i in ids]}
json.dump(found, open(sys.argv[2], "w"))
"""


@pytest.mark.slow
def test_transformers_finds_the_same_ids_in_a_folder(tmp_path):
    python = parity_python()
    if python is None:
        pytest.skip("needs torch and transformers, here or in the interpreter that PARITY_PYTHON names")
    folders = {name: str(written(tmp_path / name, name)) for name in VOCABULARIES}
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    files = [str(tmp_path / name) for name in ("texts.json", "answer.json")]
    subprocess.run([python, "-c", ASK, *files, *folders.values()], check=True, capture_output=True)
    answer = json.loads(Path(files[1]).read_text())
    for name, folder in folders.items():
        vocabulary = vocabulary_of(name)
        for text, ids, back in zip(TEXTS, answer[folder]["ids"], answer[folder]["texts"], strict=True):
            assert ids == [vocabulary.bos_id, *vocabulary.encode(text)], (name, text)
            if vocabulary.unk_id not in ids:
                assert back == vocabulary.decode(ids), (name, text)
