"""What a SentencePiece model says of itself: its pieces, how it splits text and what it does to text before.

Other libraries have to be told these; the format is `sentencepiece_model.proto` of SentencePiece.
"""

from __future__ import annotations

import dataclasses
import enum

import sentencepiece.sentencepiece_model_pb2 as proto

from data.vocabulary import Vocabulary

SPACE = "▁"  # U+2581, how SentencePiece writes a space


class Kind(enum.IntEnum):
    """Of a piece; the numbers are those of the format, and of GGUF."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclasses.dataclass(frozen=True)
class Piece:
    text: str
    score: float
    kind: Kind


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """algorithm: `bpe` or `unigram`. charsmap: the compiled normalisation, empty where text is taken as it is."""

    pieces: tuple[Piece, ...]
    algorithm: str
    charsmap: bytes
    adds_space: bool
    removes_spaces: bool
    byte_fallback: bool


def tokenizer_of(vocabulary: Vocabulary) -> Tokenizer:
    """The model of a vocabulary, of its pieces of text alone.

    Raises:
        ValueError: a setting that other libraries do not follow, by its name in the model.
    """
    model = proto.ModelProto.FromString(vocabulary.model)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    algorithm = proto.TrainerSpec.ModelType.Name(trainer.model_type).lower()
    for field, given, allowed in (
        ("model_type", algorithm, ("bpe", "unigram")),
        ("treat_whitespace_as_suffix", trainer.treat_whitespace_as_suffix, (False,)),
        ("escape_whitespaces", normalizer.escape_whitespaces, (True,)),
    ):
        if given not in allowed:
            names = " and ".join(repr(value) for value in allowed)
            raise ValueError(f"the vocabulary's {field} is {given!r}; only vocabularies with {names} can be exported")
    pieces = [Piece(piece.piece, piece.score, Kind(piece.type)) for piece in model.pieces]
    return Tokenizer(
        tuple(pieces),
        algorithm,
        normalizer.precompiled_charsmap,
        normalizer.add_dummy_prefix,
        normalizer.remove_extra_whitespaces,
        trainer.byte_fallback,
    )
