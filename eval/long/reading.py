"""Questions about one of many paragraphs: RULER's qa_1 (arXiv 2404.06654, appendix B) on SQuAD (arXiv 1606.05250)."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np

NUM_TOKENS = 32
FILES = ("squad/*.json", "xquad/xquad.en.json")  # below --data, of SQuAD's form; the first that is there
_TASK = "Answer the question based on the given documents. Only give me the answer and do not output any other words."


@dataclasses.dataclass(frozen=True)
class Question:
    """answers: texts of which any is right. paragraph: the index of the one that says it."""

    text: str
    answers: tuple[str, ...]
    paragraph: int


@dataclasses.dataclass(frozen=True)
class Paragraphs:
    texts: tuple[str, ...]
    questions: tuple[Question, ...]

    @classmethod
    def find(cls, data: Path | None) -> Paragraphs | None:
        """What lies below `data`, or None. Raises ValueError for a file that is not of SQuAD's form."""
        if data is None:
            return None
        texts: dict[str, int] = {}  # and their indices
        questions = []
        for file in next(filter(None, (sorted(data.glob(pattern)) for pattern in FILES)), []):
            try:
                articles = json.loads(file.read_text())["data"]
                for part in itertools.chain.from_iterable(article["paragraphs"] for article in articles):
                    index = texts.setdefault(part["context"], len(texts))
                    for asked in part["qas"]:
                        answers = tuple(dict.fromkeys(answer["text"] for answer in asked["answers"]))
                        questions += [Question(asked["question"], answers, index)] if answers else []
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{file} is not of SQuAD's form: {error!r}") from None
        return cls(tuple(texts), tuple(questions)) if questions else None

    def prompt(self, rng: np.random.Generator, n: int) -> tuple[str, tuple[str, ...]]:
        """A question, its paragraph at any depth among n others, again from the first where there are not so many."""
        question = self.questions[rng.integers(len(self.questions))]
        others = [i for i in rng.permutation(len(self.texts)) if i != question.paragraph] or [question.paragraph]
        shown = [others[i % len(others)] for i in range(n)]
        shown.insert(int(rng.uniform() * (n + 1)), question.paragraph)
        documents = "\n\n".join(f"Document {i}:\n{self.texts[index]}" for i, index in enumerate(shown, 1))
        return (
            f"{_TASK}\n\nThe following are given documents.\n\n{documents}\n\n{_TASK}\n\n"
            f"Question: {question.text} Answer:",
            question.answers,
        )
