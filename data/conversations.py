"""Conversations and pairs of answers as sources: loss on answers only, images in turns, packed like everything else."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from data.chat import OWN_TURNS, ChatTemplate, Message
from data.elements import Boundary, CorruptRecord, Document
from data.image_prompt import ImageForm
from data.json_records import Record, json_records
from data.layout import cost_of
from data.messages import read_messages
from data.vocabulary import Vocabulary

Split = Literal["train", "validation"]
_FIELD = re.compile(r"\{(\w+)\}")


@dataclasses.dataclass(frozen=True)
class _Records:
    """Fields that both kinds have."""

    paths: tuple[str, ...]  # jsonl, json or parquet files, globs or URLs
    turn: str = OWN_TURNS  # pattern of a turn with {role} and {content}; "" = the vocabulary's own turns
    num_slots: int = 0  # of an image; 0 = there are none
    holdout: float = 0.0  # share of the records that training does not see
    max_left_out: int = 0  # records that are unreadable or longer than a row, before the phase is refused

    def __post_init__(self):
        if not self.paths:
            raise ValueError("paths is empty; name at least one file, glob or URL")
        if self.num_slots < 0 or self.max_left_out < 0:
            raise ValueError(f"num_slots and max_left_out are {self.num_slots, self.max_left_out}; give 0 or more")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout is {self.holdout}; it must be a share in [0, 1)")

    def _template(self, vocabulary: Vocabulary, image_size: tuple[int, int]) -> ChatTemplate:
        form = ImageForm(image_size, self.num_slots) if self.num_slots else None
        return ChatTemplate(vocabulary, form, self.turn)

    def _source(self, document: Callable[[Record], Document], slots: int, split: Split) -> RecordSource:
        return RecordSource(self.paths, document, slots, split, self.holdout, self.max_left_out)


@dataclasses.dataclass(frozen=True)
class ConversationsConfig(_Records):
    """Conversations of which the answers are learnt: the list `messages` of a record, as in the OpenAI API.

    An image is a part {"type": "image_url", "image_url": {"url": path or data: URL}}, its path relative to the file.
    Records of another form are described by patterns, such as user="{question}" and answer="{answer}".
    """

    kind: Literal["conversations"] = "conversations"
    system: str = ""  # pattern of the system's words
    user: str = ""  # pattern of the user's words, with {field} for fields of the record; "" = records hold `messages`
    answer: str = ""  # pattern of the answer
    weight: float = 1.0  # of a token of an answer in the loss

    def __post_init__(self):
        super().__post_init__()
        if bool(self.user) != bool(self.answer) or (self.system and not self.user):
            raise ValueError(f"user is {self.user!r}, answer {self.answer!r}; a pattern of both, or of none, describes")
        if self.weight <= 0:
            raise ValueError(
                f"weight is {self.weight}; it must be positive; take the source out of the mixture instead"
            )

    def build(
        self, vocabulary: Vocabulary, slots: int, image_size: tuple[int, int] = (0, 0), split: Split = "train"
    ) -> RecordSource:
        """`slots` and `image_size`: of a row."""
        template = self._template(vocabulary, image_size)
        return self._source(_Conversation(self, template), slots, split)


@dataclasses.dataclass(frozen=True)
class PreferencesConfig(_Records):
    """Pairs of answers to one `prompt`, of which `chosen` is the better one: each a text or a list of messages.

    Without a prompt both lists are whole conversations, of which the last message is compared. A pair is one document
    of two segments, the chosen one first, so that it stays together in a row.
    """

    kind: Literal["preferences"] = "preferences"
    flip: float = 0.0  # share of the pairs in training that are turned around, to study wrong labels

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.flip < 0.5:
            raise ValueError(f"flip is {self.flip}; it must be in [0, 0.5), as more would turn the preference around")

    def build(
        self, vocabulary: Vocabulary, slots: int, image_size: tuple[int, int] = (0, 0), split: Split = "train"
    ) -> RecordSource:
        """`slots` and `image_size`: of a row, which holds both halves."""
        template = self._template(vocabulary, image_size)
        return self._source(_Pair(template, self.flip if split == "train" else 0.0), slots, split)


class RecordSource:
    """One document for each record of one split; tokenised when read, and once before for its cost.

    Raises ValueError where nothing is left, or more than `max_left_out` records cannot be used.
    """

    def __init__(
        self,
        paths: tuple[str, ...],
        document: Callable[[Record], Document],
        slots: int,
        split: Split,
        holdout: float,
        max_left_out: int,
    ):
        self._document, self._records, costs = document, [], []
        self.left_out: list[str] = []
        for record in json_records(paths):
            if isinstance(record, Record) and (record.uniform("holdout") < holdout) != (split == "validation"):
                continue
            try:
                if isinstance(record, CorruptRecord):
                    raise record
                cost = cost_of(document(record))
                if cost.slots > slots:
                    raise CorruptRecord(f"{record.where}: takes {cost.slots} slots, a row holds {slots}")
            except CorruptRecord as error:
                self.left_out.append(str(error))
                continue
            self._records.append(record)
            costs.append(dataclasses.astuple(cost))
        if len(self.left_out) > max_left_out:
            first = "\n  ".join(self.left_out[:5])
            raise ValueError(
                f"{len(self.left_out)} records cannot be used, max_left_out is {max_left_out}; repair them, make rows "
                f"longer or raise max_left_out. The first:\n  {first}"
            )
        if not self._records:
            raise ValueError(f"split {split!r} of {', '.join(paths)} is empty; change holdout or paths")
        self._costs = np.array(costs, np.int32)

    def __len__(self) -> int:
        return len(self._records)

    def costs(self) -> np.ndarray:
        """int32[N,3]: slots, images and vectors of every document."""
        return self._costs

    def __getitem__(self, index: int) -> Document:
        return self._document(self._records[index])


@dataclasses.dataclass(frozen=True)
class _Conversation:
    config: ConversationsConfig
    template: ChatTemplate

    def __call__(self, record: Record) -> Document:
        """Raises CorruptRecord where it is no conversation."""
        config = self.config
        try:
            if not config.user:
                messages = read_messages(record.fields.get("messages"), record.folder)
            else:
                patterns = {"system": config.system, "user": config.user, "assistant": config.answer}
                messages = [Message(r, (_filled(p, record.fields),)) for r, p in patterns.items() if p]
            return self.template.conversation(messages, config.weight)
        except ValueError as error:
            raise CorruptRecord(f"{record.where}: {error}") from None


@dataclasses.dataclass(frozen=True)
class _Pair:
    template: ChatTemplate
    flip: float

    def __call__(self, record: Record) -> Document:
        """Raises CorruptRecord where it is no pair."""
        try:
            halves = [self._half(record, name) for name in ("chosen", "rejected")]
        except ValueError as error:
            raise CorruptRecord(f"{record.where}: {error}") from None
        if record.uniform("flip") < self.flip:
            halves.reverse()
        return (*halves[0], Boundary(), *halves[1])

    def _half(self, record: Record, name: str) -> Document:
        prompt, answer = record.fields.get("prompt"), record.fields.get(name)
        answers = _messages_or_text(answer, "assistant", name, record.folder)
        if prompt is None:
            return self.template.conversation(answers, learn_from=len(answers) - 1)
        given = _messages_or_text(prompt, "user", "prompt", record.folder)
        return self.template.conversation([*given, *answers], learn_from=len(given))


def _messages_or_text(value: Any, role: str, name: str, folder: str) -> list[Message]:
    return [Message(role, (value,))] if isinstance(value, str) else read_messages(value, folder, name)


def _filled(pattern: str, fields: dict[str, Any]) -> str:
    """The pattern with the record's fields; whole numbers are written without a point."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in fields:
            raise ValueError(f"there is no field {match[1]!r} for the pattern {pattern!r}; it has {', '.join(fields)}")
        found = fields[match[1]]
        return str(int(found)) if isinstance(found, float) and found.is_integer() else str(found)

    return _FIELD.sub(value, pattern)
