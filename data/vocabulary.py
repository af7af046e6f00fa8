"""Token ids: a SentencePiece model for text and, after its ids, discrete codes for everything that is not text.

Train one on text files (the whole ids of the result are 0..size-1):
    python -m data.vocabulary --input 'corpus/*.txt' --size 1024 --out vocabulary.model
A model of another library comes with its own ids and without our symbols; it serves for text.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sentencepiece

from data.whole import write_whole

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
_HEADER = 8  # bytes before the model where a checkpoint carries it
_FIRST_PIECE = b"\n"  # how a serialised model begins: with a piece, whose first field is again one with this tag
_CHUNK = 1000  # characters; the trainer leaves out "sentences" over 4192 bytes


class Vocabulary:
    """A SentencePiece model with `num_codes` discrete codes appended after the text ids (Gato, section 2.1).

    Ids: `<pad>` 0, `<bos>` 1, `<eos>` 2, `<unk>` 3, `SYMBOLS`, 256 bytes, pieces, codes. A model of another library has
    its own order in place of all but the codes, and `num_unused` ids may lie between its pieces and the codes: rows
    that its embedding has and no text is encoded to.
    """

    def __init__(self, model: bytes, num_codes: int = 0, num_unused: int = 0):
        for field, value in (("num_codes", num_codes), ("num_unused", num_unused)):
            if not 0 <= value < 1 << 32:
                raise ValueError(f"{field} must be >= 0 and below 2^32, got {value}")
        self.model, self.num_codes, self.num_unused = model, num_codes, num_unused
        self._piece_ids: dict[str, int] = {}  # asked for in every document, and slow to look up
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError(
                f"not a SentencePiece model ({error}); make one with `python -m data.vocabulary`"
            ) from None
        self.text_size: int = self._processor.vocab_size()
        self.has_symbols = all(self._processor.id_to_piece(self._find(name)) == name for name in (*SPECIAL, *SYMBOLS))
        if self.has_symbols:
            self._space = [self._find(f"<0x{byte:02X}>") for byte in _SPACE.encode()]
        lacking = [n for n, i in (("bos", self._processor.bos_id()), ("eos", self._processor.eos_id())) if i < 0]
        if lacking:
            raise ValueError(
                f"the SentencePiece model has no {' and no '.join(lacking)} piece, with which documents begin and end; "
                "take a model that has them"
            )

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
        """Reads SentencePiece's own format, as `save` writes it, or the `tokenizer.model` of a checkpoint.

        Raises ValueError where there is none.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise ValueError(f"no vocabulary at {path}; make one with `python -m data.vocabulary --out {path}`")
        content = path.read_bytes()
        if content[_HEADER : _HEADER + 1] == _FIRST_PIECE and content[2:3] != _FIRST_PIECE:
            stored = cls.from_bytes(content)
            return cls(stored.model, num_codes, stored.num_unused)
        return cls(content, num_codes)

    @classmethod
    def from_bytes(cls, serialized: bytes) -> Vocabulary:
        """The inverse of `serialized`."""
        num_codes, num_unused = (int.from_bytes(serialized[i : i + 4], "little") for i in (0, 4))
        return cls(serialized[_HEADER:], num_codes, num_unused)

    def save(self, path: str | pathlib.Path) -> None:
        write_whole(path, self.model)

    def __reduce__(self):
        return Vocabulary, (self.model, self.num_codes, self.num_unused)

    @property
    def serialized(self) -> bytes:
        """The numbers of codes and of unused ids and the model, in bytes, for a checkpoint to carry."""
        return self.num_codes.to_bytes(4, "little") + self.num_unused.to_bytes(4, "little") + self.model

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of `serialized`, in hex: equal hashes give equal ids."""
        return hashlib.sha256(self.serialized).hexdigest()

    @property
    def first_code(self) -> int:
        return self.text_size + self.num_unused

    @property
    def size(self) -> int:
        return self.first_code + self.num_codes

    @property
    def pad_id(self) -> int:
        return max(self._processor.pad_id(), 0)  # a padding slot is told by its segment, so any id will do

    @property
    def bos_id(self) -> int:
        return self._processor.bos_id()

    @property
    def eos_id(self) -> int:
        return self._processor.eos_id()

    @property
    def unk_id(self) -> int:
        return self._processor.unk_id()

    @property
    def image_id(self) -> int:
        """What stands in the slots of a picture: `<image>`, elsewhere an id that no text has, if there is one."""
        if self.has_symbols:
            return self.piece_id("<image>")
        return self.text_size if self.num_unused else self.pad_id

    @property
    def adds_space(self) -> bool:
        """Whether text is encoded as if a space stood before it; not so for our own models."""
        return self._processor.id_to_piece(self._processor.EncodeAsIds("a"))[0].startswith(_SPACE)

    def piece(self, token: int) -> str:
        """What the SentencePiece model calls a text id."""
        return self._processor.id_to_piece(token)

    def encode(self, text: str) -> list[int]:
        """Text ids. `decode` gives back exactly `text`, which is read as text even where it spells a symbol.

        A model of another library encodes as that library does, with its own normalisation and symbols.
        """
        if not self.has_symbols:
            return self._processor.EncodeAsIds(text)
        parts = self._processor.EncodeAsIds(text.split(_SPACE))
        return parts[0] + [i for part in parts[1:] for i in (*self._space, *part)]

    def decode(self, ids: Sequence[int], *, continues: bool = False) -> str:
        """The text of `ids`; codes and symbols are left out, bytes that are not UTF-8 become U+FFFD.

        continues: other text stands before, so that a space at the beginning is one. Elsewhere a model of another
        library may have put it there itself, and leaves it out.
        """
        outside = [i for i in ids if not 0 <= i < self.size]
        if outside:
            raise ValueError(f"id {outside[0]} is outside the vocabulary (0 to {self.size - 1})")
        text_ids = [int(i) for i in ids if i < self.text_size]
        if not continues or self.has_symbols:
            return self._processor.DecodeIds(text_ids)
        before = self._processor.EncodeAsIds("a")
        return self._processor.DecodeIds(before + text_ids)[len(self._processor.DecodeIds(before)) :]

    def piece_id(self, piece: str) -> int:
        """The id of a symbol or piece, such as `<action>`. Raises ValueError where there is none."""
        if piece not in self._piece_ids:
            found = self._find(piece)
            if self._processor.id_to_piece(found) != piece:
                known = (
                    f"its symbols are {', '.join(SYMBOLS)}"
                    if self.has_symbols
                    else (
                        "it is of another library and serves for text; train one with `python -m data.vocabulary` for "
                        "images and actions"
                    )
                )
                raise ValueError(f"the vocabulary has no piece {piece!r}; {known}")
            self._piece_ids[piece] = found
        return self._piece_ids[piece]

    def code_id(self, code: int) -> int:
        """The id of discrete code 0..num_codes-1."""
        if not 0 <= code < self.num_codes:
            raise ValueError(f"code {code} is outside 0..{self.num_codes - 1}; raise vocabulary.num_codes")
        return self.first_code + code

    def code_of(self, token: int) -> int:
        """The discrete code of an id; the inverse of `code_id`."""
        if not self.first_code <= token < self.size:
            raise ValueError(f"id {token} is no code: codes are {self.first_code} to {self.size - 1}")
        return token - self.first_code

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


def only_adds_codes(old: bytes, new: bytes) -> bool:
    """Whether every id of the serialized vocabulary `old` means the same in `new`, which may have more codes."""
    codes = lambda serialized: int.from_bytes(serialized[:4], "little")  # noqa: E731
    return old[4:] == new[4:] and codes(old) <= codes(new)


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
