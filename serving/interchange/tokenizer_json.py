"""The vocabulary in the files of HF tokenizers, so that `AutoTokenizer` gives the ids that SentencePiece gives.

Equal for text. What differs: text that spells a control symbol (`<s>`, `<turn_end>`) is read as the symbol there unless
`split_special_tokens=True`, text that spells a byte piece (`<0x41>`) is that byte in a unigram vocabulary, and a model
of ours spells the character ▁ in bytes, where others take it for a space. Unigram models also leave ties between equal
scores, and a few normalisations of composed characters, to the library (3 of 3,473 texts in 388 languages).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from data.vocabulary import Vocabulary
from serving.interchange.pieces import SPACE, Kind, Piece, Tokenizer, tokenizer_of

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def tokenizer_files(vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of `FILES`. Raises ValueError for a SentencePiece model that they cannot express."""
    tokenizer, pieces = tokenizer_of(vocabulary), vocabulary.piece
    ids = {"bos": vocabulary.bos_id, "eos": vocabulary.eos_id, "unk": vocabulary.unk_id, "pad": vocabulary.pad_id}
    named = {f"{name}_token": pieces(i) for name, i in ids.items()}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # takes tokenizer.json as it stands
        **named,
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": tokenizer.adds_space,
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(1e30),  # transformers' way to say that there is none
    }
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_added(tokenizer)),
        "normalizer": _sequence("normalizers", _normalizers(tokenizer)),
        "pre_tokenizer": None,
        "post_processor": _begin_with(named["bos_token"], vocabulary.bos_id),
        "decoder": _sequence("decoders", _decoders(tokenizer)),
        "model": _bpe(tokenizer, vocabulary) if tokenizer.algorithm == "bpe" else _unigram(tokenizer, vocabulary),
    }
    return dict(zip(FILES, (whole, config, named), strict=True))


def _added(tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    """What is found in text before anything else is done to it."""
    for i, piece in enumerate(tokenizer.pieces):
        if piece.kind in (Kind.CONTROL, Kind.UNKNOWN, Kind.USER_DEFINED):
            ours = piece.kind == Kind.USER_DEFINED
            yield {
                "id": i,
                "content": piece.text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                # Among them may be runs of spaces; with a space put before them they would be found nowhere.
                "normalized": ours and not tokenizer.adds_space,
                "special": not ours,
            }


def _normalizers(tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    if tokenizer.charsmap:
        yield {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(tokenizer.charsmap).decode()}
    if tokenizer.removes_spaces:
        yield {"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""}
        yield {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    if tokenizer.adds_space:
        yield {"type": "Prepend", "prepend": SPACE}
    yield {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def _decoders(tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    yield {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    if tokenizer.byte_fallback:
        yield {"type": "ByteFallback"}
    yield {"type": "Fuse"}
    if tokenizer.adds_space:
        yield {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def _sequence(name: str, steps: Iterator[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "Sequence", name: list(steps)}


def _begin_with(token: str, i: int) -> dict[str, Any]:
    begin = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": k}} for k, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [begin, first],
        "pair": [begin, first, second],
        "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]}},
    }


def _unigram(tokenizer: Tokenizer, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "type": "Unigram",
        "unk_id": vocabulary.unk_id,
        "vocab": [[piece.text, piece.score] for piece in tokenizer.pieces[: vocabulary.text_size]],
        "byte_fallback": tokenizer.byte_fallback,
    }


def _bpe(tokenizer: Tokenizer, vocabulary: Vocabulary) -> dict[str, Any]:
    pieces = tokenizer.pieces[: vocabulary.text_size]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": pieces[vocabulary.unk_id].text,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": tokenizer.byte_fallback,
        "ignore_merges": False,
        "vocab": {piece.text: i for i, piece in enumerate(pieces)},
        "merges": _merges(pieces),
    }


def _merges(pieces: tuple[Piece, ...]) -> list[list[str]]:
    """Every pair of pieces that makes a piece, the best piece first: SentencePiece goes by the score of the result."""
    normal = {piece.text: piece.score for piece in pieces if piece.kind == Kind.NORMAL}
    found = []
    for text, score in normal.items():
        halves = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        found += [(-score, [left, right]) for left, right in halves if left in normal and right in normal]
    return [pair for _, pair in sorted(found, key=lambda scored: scored[0])]
