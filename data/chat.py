"""Conversations as documents: one template for training and serving, so that both see the same ids.

Own turns of a vocabulary: those of Gemma (`<start_of_turn>user` ...) where it has their pieces, else our symbols
(`<user>` ... `<turn_end>`), which no text can forge. A pattern writes turns as plain text instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from data.elements import Document, Image
from data.image_processing import views
from data.image_prompt import ImageForm, ImageMarks, Span, document_of
from data.vocabulary import Vocabulary

ROLES = ("system", "developer", "user", "assistant")
OWN_TURNS = ""
PLAIN_TURN = "{role}: {content}\n"
_SYMBOLS = {"system": "<system>", "developer": "<system>", "user": "<user>", "assistant": "<model>"}
_START, _END = "<start_of_turn>", "<end_of_turn>"


@dataclasses.dataclass(frozen=True)
class Message:
    """content: text and pictures (uint8[H,W,3], any size) in reading order."""

    role: str
    content: tuple[str | np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class ChatPrompt:
    """stop and ends: where the answer ends beside end-of-text."""

    document: Document
    stop: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()


class Turns(Protocol):
    """How turns are written. closing: what ends a conversation that is learnt from."""

    stop: tuple[str, ...]
    ends: frozenset[int]
    closing: tuple[Span, ...]

    def check(self, messages: Sequence[Message], *, opened: bool) -> None:
        """Raises ValueError for messages in an order that the template cannot write."""
        ...

    def written(self, texts: Sequence[tuple[str, str]], *, opened: bool) -> list[Span]:
        """Spans of (role, text); weight 1 for what an answer is to be. `opened`: the beginning of an answer follows."""
        ...


class ChatTemplate:
    """How messages become documents of one model."""

    def __init__(self, vocabulary: Vocabulary, image: ImageForm | None = None, turn: str = OWN_TURNS):
        """turn: the pattern of a turn with {role} and {content}; OWN_TURNS: the vocabulary's own. With a pattern an
        answer is written after a turn's beginning, and ends before the beginning of the user's next.

        Raises ValueError for a pattern that does not hold {content} once, and for a vocabulary without turns.
        """
        self.vocabulary, self.image = vocabulary, image
        self.turns = _turns(vocabulary, turn)

    def prompt(self, messages: Sequence[Message]) -> ChatPrompt:
        """What an answer is generated after. Raises ValueError for messages that are no conversation."""
        self.turns.check(messages, opened=True)
        document = self._document(messages, opened=True)
        return ChatPrompt(document, self.turns.stop, self.turns.ends)

    def conversation(self, messages: Sequence[Message], weight: float = 1.0, learn_from: int = 0) -> Document:
        """A whole conversation; targets of `weight` are the answers alone, from message `learn_from` on.

        Raises ValueError for messages that are no conversation, or without an answer to learn.
        """
        if not any(message.role == "assistant" for message in messages[learn_from:]):
            raise ValueError("there is no answer of the assistant to learn from")
        if self.vocabulary.adds_space:
            raise ValueError("the vocabulary puts a space before every text, so an answer would not follow its turn")
        self.turns.check(messages, opened=False)
        return self._document(messages, opened=False, weight=weight, learn_from=learn_from)

    def _document(
        self, messages: Sequence[Message], *, opened: bool, weight: float = 0.0, learn_from: int = 0
    ) -> Document:
        pictures = [part for message in messages for part in message.content if not isinstance(part, str)]
        if pictures and self.image is None:
            raise ValueError("a message holds an image, and this model takes none")
        images = [Image(views(p, self.image.size)[0], self.image.num_slots) for p in pictures] if self.image else []
        texts = [(message.role, self._text(message)) for message in messages]
        spans = self._learnt(texts, learn_from, weight, opened)
        marks = ImageMarks.of(self.vocabulary)
        if images:
            spans = [(_with_images(content, marks), each) for content, each in spans]
            found = sum(content.count(marks.placeholder) for content, _ in spans if isinstance(content, str))
            if found != len(images):
                raise ValueError(f"a text holds {marks.placeholder!r}, which stands for an image; leave it out")
        return document_of([(self.vocabulary.bos_id, 0.0), *spans], images, self.vocabulary)

    def _learnt(self, texts: list[tuple[str, str]], learn_from: int, weight: float, opened: bool) -> list[Span]:
        """Spans with the weights of what is learnt; what comes before message `learn_from` is given."""
        spans = self.turns.written(texts, opened=opened)
        if self.vocabulary.adds_space:  # a space would come before every span; nothing is learnt then
            return [("".join(content for content, _ in spans if isinstance(content, str)), 0.0)]
        given = len(self.turns.written(texts[:learn_from], opened=False)) if learn_from else 0
        spans = [*spans, *(self.turns.closing if texts[-1][0] == "assistant" and not opened else ())]
        return [(content, weight * learnt * (i >= given)) for i, (content, learnt) in enumerate(spans)]

    def _text(self, message: Message) -> str:
        placeholder = ImageMarks.of(self.vocabulary).placeholder
        trimmed = isinstance(self.turns, _GemmaTurns) and message.role in ("user", "assistant")  # as its own template
        parts = [part if isinstance(part, str) else placeholder for part in message.content]
        return "".join(part.strip() if trimmed else part for part in parts)


def _with_images(content: str | int, marks: ImageMarks) -> str | int:
    if isinstance(content, int):
        return content
    count = content.count(marks.placeholder)
    return marks.expanded(content, [0] * count) if count else content


def _turns(vocabulary: Vocabulary, turn: str) -> Turns:
    if turn:
        return _PatternTurns(turn, vocabulary.eos_id)
    if vocabulary.has_symbols:
        return _SymbolTurns(vocabulary)
    if has_gemma_turns(vocabulary):
        return _GemmaTurns(vocabulary.piece_id(_END))
    raise ValueError(f"turn is {turn!r} but the vocabulary has no turns of its own; set a pattern like {PLAIN_TURN!r}")


def turn_of(vocabulary: Vocabulary, sources: Mapping[str, Any]) -> str:
    """The `turn` of a model whose config has these `sources`: that of the conversations among them, if any."""
    found = [source["turn"] for source in sources.values() if "turn" in source]
    return found[0] if found else OWN_TURNS if has_gemma_turns(vocabulary) else PLAIN_TURN


def has_gemma_turns(vocabulary: Vocabulary) -> bool:
    try:
        pieces = {vocabulary.piece_id(_START), vocabulary.piece_id(_END)}
    except ValueError:
        return False
    return len(pieces) == 2


def _check_alternate(messages: Sequence[Message], opened: bool) -> None:
    """A system message may come first; then the user's and the assistant's turns alternate."""
    first = 1 if messages and messages[0].role in ("system", "developer") else 0
    for i, message in enumerate(messages[first:]):
        if message.role != ("user", "assistant")[i % 2]:
            raise ValueError(f"this model's turns alternate from the user's on; turn {i} is the {message.role}'s")
    if len(messages) == first or (opened and messages[-1].role != "user"):
        raise ValueError("the last message must be the user's")


class _GemmaTurns:
    """The system's words stand before the user's first."""

    stop: tuple[str, ...] = ()
    closing: tuple[Span, ...] = ()

    def __init__(self, end: int):
        self.ends = frozenset([end])

    def check(self, messages: Sequence[Message], *, opened: bool) -> None:
        _check_alternate(messages, opened)

    def written(self, texts: Sequence[tuple[str, str]], *, opened: bool) -> list[Span]:
        system = f"{texts[0][1]}\n\n" if texts and texts[0][0] in ("system", "developer") else ""
        given, spans = "", []
        for i, (role, text) in enumerate(texts[1:] if system else texts):
            if role == "assistant":
                spans += [(f"{given}{_START}model\n", 0.0), (text + _END, 1.0)]
                given = "\n"
            else:
                given += f"{_START}user\n{'' if i else system}{text}{_END}\n"
        return [*spans, (f"{given}{_START}model\n" if opened else given, 0.0)]


class _SymbolTurns:
    """`<user>` text `<turn_end>` `<model>` answer `<turn_end>`, and `<system>` likewise, as ids that no text has."""

    stop: tuple[str, ...] = ()
    closing: tuple[Span, ...] = ()

    def __init__(self, vocabulary: Vocabulary):
        self._begin = {role: vocabulary.piece_id(name) for role, name in _SYMBOLS.items()}
        self._end = vocabulary.piece_id("<turn_end>")
        self.ends = frozenset([self._end])

    def check(self, messages: Sequence[Message], *, opened: bool) -> None:
        _check_alternate(messages, opened)

    def written(self, texts: Sequence[tuple[str, str]], *, opened: bool) -> list[Span]:
        spans: list[Span] = []
        for role, text in texts:
            weight = float(role == "assistant")
            spans += [(self._begin[role], 0.0), (text, weight), (self._end, weight)]
        return [*spans, (self._begin["assistant"], 0.0)] if opened else spans


class _PatternTurns:
    """Turns as plain text; an answer ends with the beginning of the user's next turn, or with end-of-text."""

    ends: frozenset[int] = frozenset()

    def __init__(self, turn: str, eos: int):
        pieces = turn.split("{content}")
        if len(pieces) != 2:
            raise ValueError(f"turn is {turn!r}; allowed: text that holds {{content}} once, such as {PLAIN_TURN!r}")
        self._before, self._after = pieces
        self.stop = tuple(filter(str.strip, [self._after + self._next]))
        self.closing: tuple[Span, ...] = ((eos, 1.0),)

    def check(self, messages: Sequence[Message], *, opened: bool) -> None:
        """Any order can be written."""

    @property
    def _next(self) -> str:
        return self._beginning("user").rstrip()

    def _beginning(self, role: str) -> str:
        return self._before.replace("{role}", role)

    def written(self, texts: Sequence[tuple[str, str]], *, opened: bool) -> list[Span]:
        spans: list[Span] = []
        given, begun = "", ""  # begun: what the answer before has written of this turn already
        for (role, text), (following, _) in zip(texts, [*texts[1:], ("", "")], strict=True):
            beginning = self._beginning(role).removeprefix(begun)
            if role != "assistant":
                given, begun = given + beginning + text + self._after, ""
                continue
            head = beginning.rstrip(" ")
            begun = self._next if following == "user" else ""
            answer = beginning[len(head) :] + text + self._after + begun
            spans += [(given + head, 0.0), (answer, 1.0)]
            given = ""
        return [*spans, (given + self._beginning("assistant").rstrip(" ") if opened else given, 0.0)]
