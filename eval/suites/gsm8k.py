"""GSM8K (arXiv 2110.14168): word problems, answered step by step after worked examples of the training set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.answers import last_number, number_after_marks, without_calculator
from eval.suites.files import find, lines
from eval.suites.items import Open

SHOTS, NUM_TOKENS = 8, 320


def items(data: Path, shots: int = SHOTS, num_tokens: int = NUM_TOKENS) -> list[Open]:
    """Lines with question and answer; the first `shots` of `gsm8k/train*.jsonl` are the examples."""
    train = [line for file in find(data, "gsm8k/train*.jsonl") for line in lines(file, "question", "answer")]
    examples = tuple(f"{_ask(line)} {without_calculator(line['answer'])}\n\n" for line in train[:shots])
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


def _ask(line: dict[str, Any]) -> str:
    return f"Question: {line['question']}\nAnswer:"
