"""What is written after one prompt: tokens come in as they are drawn, text goes out that no later token can change."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

from data.vocabulary import Vocabulary

Top = tuple[tuple[int, float], ...]  # the most likely tokens at one place with their log-probabilities, best first


@dataclasses.dataclass
class Completion:
    """What was written after one prompt.

    ids and logprobs: every drawn token, end-of-text included; tops the same, where they were asked for. ended: None
    while more may come.
    """

    text: str = ""
    ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    tops: list[Top] = dataclasses.field(default_factory=list)
    ended: Literal["stop", "length"] | None = None
    # The first so many ids and their text, which ends with a whole character: never decoded again.
    _decoded: tuple[int, str] = dataclasses.field(default=(0, ""), init=False, repr=False, compare=False)

    def extend(
        self,
        drawn: Iterable[tuple[int, float, Top]],
        vocabulary: Vocabulary,
        *,
        num_tokens: int,
        stop: Sequence[str] = (),
        ends: frozenset[int] = frozenset(),
    ) -> None:
        """Take in newly drawn tokens, up to where the text ends.

        It ends with one of `ends` (always with end-of-text), before the first stop string, or after `num_tokens`.
        """
        before = len(self.ids)
        for token, logprob, top in drawn:
            if self.ended is not None or token < 0:
                break
            self.ids.append(token)
            self.logprobs.append(logprob)
            self.tops.append(top)
            if token == vocabulary.eos_id or token in ends:
                self.ended = "stop"
            elif len(self.ids) == num_tokens:
                self.ended = "length"
        num_written = len(self.ids) - (self.ended == "stop")
        text = self._text_of(num_written, vocabulary)
        if first_of(text, stop) is not None:
            self._cut(max(before, 1), vocabulary, stop)
            return
        self.text = text if self.ended else text[: settled(text, stop)]
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self._decoded = num_written, text

    def _text_of(self, num: int, vocabulary: Vocabulary) -> str:
        """The text of the first `num` ids."""
        start, text = self._decoded
        return text + vocabulary.decode(self.ids[start:num], continues=True)

    def _cut(self, first: int, vocabulary: Vocabulary, stop: Sequence[str]) -> None:
        """End with the token that completes a stop string, of those from the `first` on."""
        for num in range(first, len(self.ids) + 1):
            text = self._text_of(num, vocabulary)
            at = first_of(text, stop)
            if at is not None:
                self.text, self.ended = text[:at], "stop"
                del self.ids[num:], self.logprobs[num:], self.tops[num:]
                return


def first_of(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string begins."""
    return min((at for at in (text.find(s) for s in stop) if at >= 0), default=None)


def settled(text: str, stop: Sequence[str]) -> int:
    """Length of the text that no later token can change: half a character or half a stop string may stand after it."""
    end = len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
    for s in stop:
        halves = [n for n in range(1, len(s)) if text[:end].endswith(s[:n])]
        end -= max(halves, default=0)
    return end
