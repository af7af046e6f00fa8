"""Token ids: a SentencePiece model for text and, after its ids, discrete codes for everything that is not text.

Train one on text files (the whole ids of the result are 0..size-1):
    python -m data.vocabulary --input 'corpus/*.txt' --size 1024 --out vocabulary.model
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sentencepiece

# Reserved ids that no text is ever encoded to, so data cannot forge a turn or an action.
SYMBOLS = (
    *("<system>", "<user>", "<model>", "<turn_end>"),
    *("<image>", "<audio>", "<proprio>", "<action>", "<point>"),
    *(f"<reserved_{k}>" for k in range(8)),
)
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
MINIMUM_SIZE = len(SPECIAL) + len(SYMBOLS) + 256 + 1
_SPECIAL_SETTINGS: dict[str, Any] = {f"{name[1:-1]}_id": k for k, name in enumerate(SPECIAL)}
_SPECIAL_SETTINGS |= {f"{name[1:-1]}_piece": name for name in SPECIAL}
_SPACE = "▁"  # U+2581: SentencePiece writes a space as this character and reads it back as a space
_CHUNK = 1000  # characters; the trainer leaves out "sentences" over 4192 bytes


class Vocabulary:
    """A SentencePiece model with `num_codes` discrete codes appended after the text ids (Gato, section 2.1).

    Ids: `<pad>` 0, `<bos>` 1, `<eos>` 2, `<unk>` 3, `SYMBOLS`, 256 bytes, pieces, codes.
    """

    def __init__(self, model: bytes, num_codes: int = 0):
        if num_codes < 0:
            raise ValueError(f"num_codes must be >= 0, got {num_codes}")
        self._model, self.num_codes = model, num_codes
        self._piece_ids: dict[str, int] = {}  # asked for in every document, and slow to look up
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError(
                f"not a SentencePiece model ({error}); make one with `python -m data.vocabulary`"
            ) from None
        self.text_size: int = self._processor.vocab_size()
        missing = [name for name in (*SPECIAL, *SYMBOLS) if self._processor.id_to_piece(self._find(name)) != name]
        if missing:
            raise ValueError(f"the SentencePiece model lacks {missing}; make one with `python -m data.vocabulary`")
        self._space = [self._find(f"<0x{byte:02X}>") for byte in _SPACE.encode()]

    @classmethod
    def train(cls, texts: Iterable[str], size: int, num_codes: int = 0, max_characters: int = 20_000_000) -> Vocabulary:
        """Byte-pair encoding with byte fallback and split digits, of the first `max_characters` of `texts`.

        The same texts give the same bytes. Raises ValueError where `size` is too small for the reserved ids or too
        large for the texts.
        """
        if size < MINIMUM_SIZE:
            raise ValueError(f"size {size} is too small: reserved symbols and bytes alone need {MINIMUM_SIZE}")
        chunks = itertools.islice(_chunks(texts), max_characters // _CHUNK + 1)
        first = next(chunks, None)
        if first is None:
            raise ValueError("no text to train a vocabulary on: every document is empty")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=itertools.chain([first], chunks),
                model_writer=model,
                model_type="bpe",
                vocab_size=size,
                byte_fallback=True,
                split_digits=True,
                character_coverage=1.0 - 1e-4,  # what is left is spelled in bytes
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                control_symbols=list(SYMBOLS),
                **_SPECIAL_SETTINGS,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(f"cannot train a vocabulary of size {size} on this text: {error}") from None
        return cls(model.getvalue(), num_codes)

    @classmethod
    def load(cls, path: str | pathlib.Path, num_codes: int = 0) -> Vocabulary:
        """Reads a model written by `save`, SentencePiece's own format. Raises ValueError where there is none."""
        path = pathlib.Path(path)
        if not path.is_file():
            raise ValueError(f"no vocabulary at {path}; make one with `python -m data.vocabulary --out {path}`")
        return cls(path.read_bytes(), num_codes)

    @classmethod
    def from_bytes(cls, serialized: bytes) -> Vocabulary:
        """The inverse of `serialized`."""
        return cls(serialized[8:], int.from_bytes(serialized[:8], "little"))

    def save(self, path: str | pathlib.Path) -> None:
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        aside.write_bytes(self._model)
        aside.replace(path)  # at once, so that nobody reads half a model

    def __reduce__(self):
        return Vocabulary, (self._model, self.num_codes)

    @property
    def serialized(self) -> bytes:
        """The number of codes and the model, in bytes, for a checkpoint to carry."""
        return self.num_codes.to_bytes(8, "little") + self._model

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of `serialized`, in hex: equal hashes give equal ids."""
        return hashlib.sha256(self.serialized).hexdigest()

    @property
    def size(self) -> int:
        return self.text_size + self.num_codes

    @property
    def pad_id(self) -> int:
        return 0

    @property
    def bos_id(self) -> int:
        return 1

    @property
    def eos_id(self) -> int:
        return 2

    def encode(self, text: str) -> list[int]:
        """Text ids. `decode` gives back exactly `text`, which is read as text even where it spells a symbol."""
        parts = self._processor.EncodeAsIds(text.split(_SPACE))
        return parts[0] + [i for part in parts[1:] for i in (*self._space, *part)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; codes and symbols are left out, bytes that are not UTF-8 become U+FFFD."""
        outside = [i for i in ids if not 0 <= i < self.size]
        if outside:
            raise ValueError(f"id {outside[0]} is outside the vocabulary (0 to {self.size - 1})")
        return self._processor.DecodeIds([int(i) for i in ids if i < self.text_size])

    def piece_id(self, piece: str) -> int:
        """The id of a symbol or piece, such as `<action>`. Raises ValueError where there is none."""
        if piece not in self._piece_ids:
            found = self._find(piece)
            if self._processor.id_to_piece(found) != piece:
                raise ValueError(f"the vocabulary has no piece {piece!r}; its symbols are {', '.join(SYMBOLS)}")
            self._piece_ids[piece] = found
        return self._piece_ids[piece]

    def code_id(self, code: int) -> int:
        """The id of discrete code 0..num_codes-1."""
        if not 0 <= code < self.num_codes:
            raise ValueError(f"code {code} is outside 0..{self.num_codes - 1}; raise vocabulary.num_codes")
        return self.text_size + code

    def code_of(self, token: int) -> int:
        """The discrete code of an id; the inverse of `code_id`."""
        if not self.text_size <= token < self.size:
            raise ValueError(f"id {token} is no code: codes are {self.text_size} to {self.size - 1}")
        return token - self.text_size

    def require(self, expected_hash: str) -> None:
        """Raises ValueError unless this vocabulary has the given `hash`."""
        if self.hash != expected_hash:
            raise ValueError(
                f"the vocabulary (hash {self.hash[:12]}, {self.text_size} text ids + {self.num_codes} codes) is not "
                f"the one expected (hash {expected_hash[:12]}): ids would mean something else. Set vocabulary.path and "
                f"vocabulary.num_codes to the expected vocabulary, or start a new work directory"
            )

    def _find(self, piece: str) -> int:
        return self._processor.piece_to_id(piece)


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    return (text[i : i + _CHUNK] for text in texts for i in range(0, len(text), _CHUNK))


def main(argv: Sequence[str] | None = None) -> None:
    from data.records import TextFiles

    parser = argparse.ArgumentParser(description="Train a SentencePiece vocabulary on text files.")
    parser.add_argument(
        "--input", nargs="+", required=True, help="paths, globs or URLs: txt, jsonl, parquet, ArrayRecord"
    )
    parser.add_argument("--field", default="text", help="field or column that holds the text (not for txt)")
    parser.add_argument(
        "--size", type=int, default=1024, help="number of text ids, reserved symbols and bytes included"
    )
    parser.add_argument("--out", required=True, help="where to write the model")
    options = parser.parse_args(argv)
    vocabulary = Vocabulary.train(TextFiles(tuple(options.input), field=options.field).texts(), options.size)
    vocabulary.save(options.out)
    print(f"{options.out}: {vocabulary.text_size} ids, hash {vocabulary.hash[:12]}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
