"""Questions whose answer is a number that can be checked: as documents to imitate, and as prompts to answer."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Literal

import fsspec
import numpy as np

from data.answers import MARKS, number_after_marks, without_calculator
from data.elements import Document, Tokens
from data.permutation import key_of
from data.records import TextFiles
from data.token_cache import split as split_by_hash
from data.vocabulary import Vocabulary

Split = Literal["train", "validation"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is asked, a solution as somebody wrote it, and the number that it comes to."""

    prompt: str
    solution: str
    answer: Decimal


class ProblemSource:
    """Problem i as a document: bos, prompt, solution, eos; the solution alone is a target. `prompt(i)` ends before it.

    Raises ValueError where there is no problem.
    """

    def __init__(self, problems: Sequence[Problem], vocabulary: Vocabulary):
        if not problems:
            raise ValueError("no problem is left in this split; change holdout, or give more problems")
        self.problems, self._vocabulary = tuple(problems), vocabulary

    def __len__(self) -> int:
        return len(self.problems)

    def costs(self) -> np.ndarray:
        """int32[N,3]: slots of every document; no images, no vectors."""
        slots_N = [sum(len(part.ids) for part in self[i]) for i in range(len(self))]
        return np.array([(slots, 0, 0) for slots in slots_N], np.int32)

    def __getitem__(self, index: int) -> Document:
        solution = [*self._vocabulary.encode(self.problems[index].solution), self._vocabulary.eos_id]
        return *self.prompt(index), Tokens(np.array(solution, np.int32), np.ones(len(solution), np.float32))

    def prompt(self, index: int) -> Document:
        """Nothing in it is a target."""
        ids = [self._vocabulary.bos_id, *self._vocabulary.encode(self.problems[index].prompt)]
        return (Tokens(np.array(ids, np.int32), np.zeros(len(ids), np.float32)),)


@dataclasses.dataclass(frozen=True)
class ArithmeticConfig:
    """Sums and differences such as `47+8-30=`, made up from the config's seed. Equal ones fall on one side of the
    split."""

    kind: Literal["arithmetic"] = "arithmetic"
    num_problems: int = 10_000
    terms: int = 2  # of each problem
    largest: int = 99  # term; the smallest is 0
    operations: Literal["+", "-", "+-"] = "+-"  # that join the terms
    holdout: float = 0.0  # share of the problems that training does not see

    def __post_init__(self):
        for field, least in (("num_problems", 1), ("terms", 2), ("largest", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be at least {least}")
        _check_share(self.holdout)

    def build(self, vocabulary: Vocabulary, seed: int, split: Split = "train") -> ProblemSource:
        return ProblemSource(_part(self._problems(seed), self.holdout, split), vocabulary)

    def _problems(self, seed: int) -> Iterator[Problem]:
        random = np.random.default_rng(key_of("arithmetic", seed))
        for _ in range(self.num_problems):
            terms = random.integers(0, self.largest + 1, self.terms).tolist()
            signs = random.choice(list(self.operations), self.terms - 1).tolist()
            written, result = str(terms[0]), terms[0]
            for sign, term in zip(signs, terms[1:], strict=True):
                written, result = f"{written}{sign}{term}", result + (term if sign == "+" else -term)
            yield Problem(f"{written}=", str(result), Decimal(result))


@dataclasses.dataclass(frozen=True)
class QuestionsConfig:
    """Word problems in the format of GSM8K (lines with `question` and `answer`, the number after ####) or of SVAMP
    (one list, with `Body`, `Question`, `Equation` and `Answer`)."""

    paths: tuple[str, ...]  # files, globs or URLs
    kind: Literal["questions"] = "questions"
    layout: Literal["gsm8k", "svamp"] = "gsm8k"
    template: str = "Question: {question}\nAnswer:"  # of a prompt
    holdout: float = 0.0  # share of the problems that training does not see

    def __post_init__(self):
        if not self.paths:
            raise ValueError("paths is empty; name at least one file, glob or URL")
        if self.template.count("{question}") != 1:
            raise ValueError(f"template is {self.template!r}; it must hold {{question}} once")
        _check_share(self.holdout)

    def build(self, vocabulary: Vocabulary, seed: int, split: Split = "train") -> ProblemSource:
        """Raises ValueError naming the file and record that is no such problem."""
        del seed
        return ProblemSource(_part(self._problems(), self.holdout, split), vocabulary)

    def _problems(self) -> Iterator[Problem]:
        parse = {"gsm8k": _gsm8k, "svamp": _svamp}[self.layout]
        for where, record in _records(self.paths):
            try:
                question, solution, answer = parse(record)
            except (KeyError, TypeError, ArithmeticError) as error:
                raise ValueError(
                    f"{where}: no problem in the layout of {self.layout!r} ({error!r}); correct it or set layout"
                ) from None
            yield Problem(self.template.replace("{question}", question), f" {solution}", answer)


def _gsm8k(record: Any) -> tuple[str, str, Decimal]:
    number = number_after_marks(record["answer"])
    if number is None:
        raise KeyError(f"a number after {MARKS} in {record['answer']!r}")
    return record["question"], without_calculator(record["answer"]), number


def _svamp(record: Any) -> tuple[str, str, Decimal]:
    number = Decimal(str(record["Answer"])).normalize()
    question = f"{record['Body'].strip().rstrip('.')}. {record['Question'].strip()}"
    return question, f"{record['Equation'].strip()}\n{MARKS} {number:f}", number


def _records(paths: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Every object of the files with the place where it stands."""
    for system, path in TextFiles(tuple(paths), format="txt").files():
        with fsspec.open(system.unstrip_protocol(path), "rt", encoding="utf-8", compression="infer") as file:
            text = file.read()
        try:
            if ".json" in pathlib.PurePath(path).suffixes:
                found = [(f"{path}, record {i}", record) for i, record in enumerate(json.loads(text))]
            else:
                lines = enumerate(text.split("\n"), start=1)
                found = [(f"{path}, line {i}", json.loads(line)) for i, line in lines if line.strip()]
        except ValueError as error:
            raise ValueError(f"{path} cannot be read as JSON ({error}); is the file complete?") from None
        yield from found


def _part(problems: Iterator[Problem], holdout: float, split: Split) -> list[Problem]:
    """The problems of a split, each by the hash of its own prompt."""
    found = list(problems)
    held_out = [held for _, held in split_by_hash([problem.prompt for problem in found], holdout)]
    return [p for p, held in zip(found, held_out[: len(found)], strict=True) if held == (split == "validation")]


def _check_share(holdout: float) -> None:
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout is {holdout}; it must be a share in [0, 1)")
