"""Prompts of a wanted length in tokens, made of the sentences and words of books."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data.vocabulary import Vocabulary
from eval.language import encode_prompt

LONG = 20  # words
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’]?\s+")
_START, _END = re.compile(r"\*\*\* ?START.*\n"), re.compile(r"\n.*\*\*\* ?END")  # of a Project Gutenberg text


class TooLong(ValueError):
    """A prompt that does not fit even with nothing around what has to be in it."""


class Book:
    """The sentences of some text files in their order, long ones as clauses, and their words from four to ten letters,
    sorted."""

    def __init__(self, paths: Sequence[Path]):
        """Raises ValueError where no file is given, one is missing, or together they are too short to hide in."""
        if not paths:
            raise ValueError("--text is not given; name text files, such as books, that the long suites read from")
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise ValueError(f"--text names no files: {', '.join(missing)}")
        text = "\n".join(_body(path.read_text()) for path in paths)
        sentences = [" ".join(piece.split()) for piece in _SENTENCE_END.split(text) if piece.strip()]
        self.sentences = [part for sentence in sentences for part in _clauses(sentence)]
        self.words = sorted(set(re.findall(r"\b[a-z]{4,10}\b", text)))
        if len(self.sentences) < 20 or len(self.words) < 200:
            raise ValueError(
                f"--text has {len(self.sentences)} sentences and {len(self.words)} different words; needed: 20 and 200"
            )

    def read(self, start: int, num_words: int) -> list[str]:
        """Sentences from one on with so many words, the last cut off; after the last of the book comes the first."""
        found: list[str] = []
        while num_words > 0:
            words = self.sentences[(start + len(found)) % len(self.sentences)].split()[:num_words]
            num_words -= len(words)
            found.append(" ".join(words))
        return found


def fill[T](vocabulary: Vocabulary, build: Callable[[int], tuple[str, T]], budget: int) -> tuple[str, T]:
    """`build(n)` for the largest n whose text, with <bos>, has at most `budget` tokens; build(n) grows with n.

    Raises TooLong where build(0) is longer.
    """
    fits = lambda n: len(encode_prompt(vocabulary, build(n)[0])) <= budget  # noqa: E731
    if not fits(0):
        least = len(encode_prompt(vocabulary, build(0)[0]))
        raise TooLong(f"the shortest prompt has {least} tokens and may have {budget}; give longer --lengths")
    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return build(low)


def spread(pieces: Sequence[str], inserted: Sequence[str], depths: Sequence[float]) -> list[str]:
    """The pieces with each of `inserted` between two of them, where the wanted share of the text (0 = none, 1 = all)
    comes nearest to be before it."""
    end_N = np.cumsum([0, *map(len, pieces)])
    place = [int(np.argmin(np.abs(end_N - depth * end_N[-1]))) for depth in depths]
    result = list(pieces)
    for at, index in sorted(zip(place, range(len(inserted)), strict=True), reverse=True):
        result.insert(at, inserted[index])
    return result


def _clauses(sentence: str) -> list[str]:
    """A sentence of more than `LONG` words is divided after its commas, colons and semicolons, so that there is a
    place to hide something in near every depth."""
    return [sentence] if len(sentence.split()) <= LONG else re.split(r"(?<=[,;:]) ", sentence)


def _body(text: str) -> str:
    """Without the licence that stands around a Project Gutenberg text."""
    start, end = _START.search(text), _END.search(text)
    return text[start.end() if start else 0 : end.start() if end else len(text)]
