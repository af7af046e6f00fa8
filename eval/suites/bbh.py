"""BIG-Bench Hard (arXiv 2210.09261) with its own three worked examples a task; exact match of the extracted answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval.suites.files import find
from eval.suites.items import Open

NUM_TOKENS = 512
_SAYS = re.compile(r"the answer is", re.IGNORECASE)
_END_OF_HEADER = "-----\n"  # before it stands a notice that this is test data
_WORDS = {"yes", "no", "true", "false", "valid", "invalid"}


def items(data: Path, num_tokens: int = NUM_TOKENS) -> list[Open]:
    """`bbh/bbh/TASK.json` with examples of input and target, and `bbh/cot-prompts/TASK.txt`."""
    found = []
    for file in find(data, "bbh/bbh/*.json"):
        header, shots = prompt_of(data / "bbh/cot-prompts" / f"{file.stem}.txt")
        examples = json.loads(file.read_text())["examples"]
        extract = extractor([example["target"] for example in examples])
        for i, example in enumerate(examples):
            question = f"Q: {example['input']}\nA: Let's think step by step."
            judge = _judge(extract, example["target"])
            found.append(
                Open(f"{file.stem}:{i}", file.stem, question, judge, num_tokens, ("Q:",), shots, f"{header}\n\n")
            )
    return found


def prompt_of(file: Path) -> tuple[str, tuple[str, ...]]:
    """(what the task is, its worked examples with the blank line after each)."""
    if not file.is_file():
        raise ValueError(f"{file} is missing; every task needs its worked examples")
    header, *shots = file.read_text().split(_END_OF_HEADER, 1)[-1].strip().split("\n\nQ: ")
    return header, tuple(f"Q: {shot}\n\n" for shot in shots)


def extractor(targets: Sequence[str]) -> Callable[[str], str | None]:
    """From a text to its answer, as the targets of a task are written: lettered options, numbers, yes or no, or words.

    The answer is what the text says last after "the answer is"; a text that does not say it has none.
    """
    lettered = sum(bool(re.fullmatch(r"\([A-Z]\)", target)) for target in targets) > len(targets) / 2
    if lettered:
        return lambda text: _said(text, r"\(?([A-Z])\)?(?![A-Za-z])", lambda letter: f"({letter})")
    if all(re.fullmatch(r"-?\d+", target) for target in targets):
        return lambda text: _said(text, r"(-?\d[\d,]*)", lambda number: number.replace(",", ""))
    if all(target.lower() in _WORDS for target in targets):
        return lambda text: _said(text, r"([A-Za-z]+)", str.lower)
    return words


def words(text: str) -> str | None:
    return _said(text, r"([^\n]*)", normalised)


def normalised(text: str) -> str:
    """Single spaces, no full stop at the end."""
    return " ".join(text.split()).removesuffix(".").strip()


def _said(text: str, pattern: str, clean: Callable[[str], str]) -> str | None:
    after = _SAYS.split(text)[1:]
    found = re.match(rf"[:\s]*{pattern}", after[-1]) if after else None
    return None if found is None else clean(found.group(1))


def _judge(extract: Callable[[str], str | None], target: str):
    told = f"the answer is {target}."
    if extract(told) is None:  # two tasks have a few targets that are words where the others are letters
        extract = words
    gold = extract(told)

    def measure(text: str) -> dict[str, Any]:
        return {"exact_match": extract(text) == gold}

    return measure
