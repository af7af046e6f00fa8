"""What can be asked of a language model, and its answer as a record that JSON takes.

A record has `id`, `group` (what it is averaged with) and `metrics`: numbers, truth values or lists of truth values.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from eval.journal import Record
from eval.language import LanguageModel, encode_pair, encode_prompt


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which of some continuations of a context is the right one."""

    id: str
    group: str
    context: str
    choices: tuple[str, ...]
    gold: int

    @property
    def size(self) -> int:
        return len(self.context) + max(map(len, self.choices))

    @staticmethod
    def answer(model: LanguageModel, items: Sequence[Choice]) -> list[Record]:
        """acc: the most likely choice is the gold one. acc_norm: the one most likely a character (arXiv 2005.14165).

        A model that has learned nothing likes short texts, so `shortest` says what that alone gives: in ARC-Challenge
        0.18, well below the chance of 0.25.
        """
        pairs = [encode_pair(model.vocabulary, item.context, f" {choice}") for item in items for choice in item.choices]
        scores = iter(model.score(pairs))
        records = []
        for item in items:
            logprobs = [next(scores).logprob for _ in item.choices]
            normed = [value / len(choice) for value, choice in zip(logprobs, item.choices, strict=True)]
            best, best_normed = (max(range(len(v)), key=v.__getitem__) for v in (logprobs, normed))
            shortest = min(range(len(item.choices)), key=lambda i: len(item.choices[i]))
            right = [choice == item.gold for choice in (best, best_normed, shortest)]
            metrics = dict(zip(("acc", "acc_norm", "shortest"), right, strict=True))
            chance = 1 / len(item.choices)
            records.append(
                {"id": item.id, "group": item.group, "logprobs": logprobs, "chance": chance, "metrics": metrics}
            )
        return records


@dataclasses.dataclass(frozen=True)
class Open:
    """A question that is answered by a text, which `judge` measures.

    shots: examples before the question, each with the blank line after it; the first ones are left out where all do
    not fit the model's context with `num_tokens` of answer. notes: what else its record should say.
    """

    id: str
    group: str
    question: str
    judge: Callable[[str], dict[str, Any]]
    num_tokens: int
    stop: tuple[str, ...] = ()
    shots: tuple[str, ...] = ()
    header: str = ""
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.header) + sum(map(len, self.shots)) + len(self.question)

    def prompt(self, model: LanguageModel) -> tuple[list[int], int]:
        """(ids, shots in it)."""
        for first in range(len(self.shots) + 1):
            ids = encode_prompt(model.vocabulary, self.header + "".join(self.shots[first:]) + self.question)
            if len(ids) + self.num_tokens <= model.context:
                break
        return ids, len(self.shots) - first

    @staticmethod
    def answer(model: LanguageModel, items: Sequence[Open]) -> list[Record]:
        alike: dict[tuple[int, tuple[str, ...]], list[int]] = collections.defaultdict(list)
        for i, item in enumerate(items):
            alike[item.num_tokens, item.stop].append(i)
        records: dict[int, Record] = {}
        for (num_tokens, stop), members in alike.items():
            prompts = [items[i].prompt(model) for i in members]
            texts = model.generate([ids for ids, _ in prompts], num_tokens, stop)
            for i, (ids, shots), text in zip(members, prompts, texts, strict=True):
                item = items[i]
                facts = {"prompt_tokens": len(ids), "shots": shots, "output": text}
                records[i] = {"id": item.id, "group": item.group, **item.notes, **facts, "metrics": item.judge(text)}
        return [records[i] for i in range(len(items))]


@dataclasses.dataclass(frozen=True)
class Passage:
    """Token ids that are predicted after others; a record keeps the nats of each where `each` is set."""

    id: str
    group: str
    context: tuple[int, ...]
    ids: tuple[int, ...]
    each: bool = False

    @property
    def size(self) -> int:
        return len(self.context) + len(self.ids)

    @staticmethod
    def answer(model: LanguageModel, items: Sequence[Passage]) -> list[Record]:
        records = []
        for item, score in zip(items, model.score([(item.context, item.ids) for item in items]), strict=True):
            record: Record = {"id": item.id, "group": item.group, "tokens": len(item.ids)}
            record["metrics"] = {"nats": -score.logprob}
            if item.each:
                record["nats_each"] = [round(-float(value), 4) for value in score.logprobs_n]
            records.append(record)
        return records


Item = Choice | Open | Passage
