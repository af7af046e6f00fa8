"""GSM8K (arXiv 2110.14168): word problems, answered step by step after worked examples of the training set."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from eval.suites.files import find, lines
from eval.suites.items import Open

SHOTS, NUM_TOKENS = 8, 320
_NUMBER = re.compile(r"-?\$?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_CALCULATOR = re.compile(r"<<.*?>>")  # what the data set's calculator was asked; no model is to write it


def items(data: Path, shots: int = SHOTS, num_tokens: int = NUM_TOKENS) -> list[Open]:
    """Lines with question and answer; the first `shots` of `gsm8k/train*.jsonl` are the examples."""
    train = [line for file in find(data, "gsm8k/train*.jsonl") for line in lines(file, "question", "answer")]
    examples = tuple(f"{_ask(line)} {_CALCULATOR.sub('', line['answer'])}\n\n" for line in train[:shots])
    return [
        Open(f"{file.stem}:{i}", "gsm8k", _ask(line), judge(line["answer"]), num_tokens, ("Question:",), examples)
        for file in find(data, "gsm8k/test*.jsonl")
        for i, line in enumerate(lines(file, "question", "answer"))
    ]


def judge(gold: str):
    """strict: the number after #### is the gold one. flexible: the last number of the text is."""
    expected = number_after_marks(gold)
    if expected is None:
        raise ValueError(f"the gold answer {gold!r} has no number after ####")

    def measure(text: str) -> dict[str, Any]:
        return {"strict": number_after_marks(text) == expected, "flexible": last_number(text) == expected}

    return measure


def number_after_marks(text: str) -> Decimal | None:
    """The first number after the first ####."""
    found = _NUMBER.match(text.partition("####")[2].lstrip())
    return None if found is None else _value(found.group())


def last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text)
    return _value(found[-1]) if found else None


def _value(number: str) -> Decimal:
    """1,000 and $1000.00 are the same number."""
    return Decimal(number.replace(",", "").replace("$", "").replace("--", "-"))


def _ask(line: dict[str, Any]) -> str:
    return f"Question: {line['question']}\nAnswer:"
