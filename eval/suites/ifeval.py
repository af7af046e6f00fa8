"""IFEval (arXiv 2311.07911): prompts whose instructions a program can check; strict and loose, by prompt and by
instruction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval.suites.files import find, lines
from eval.suites.instructions import follows
from eval.suites.items import Open

NUM_TOKENS = 1280


def items(data: Path, num_tokens: int = NUM_TOKENS) -> list[Open]:
    """Lines with key, prompt, instruction_id_list and kwargs, an object for each instruction."""
    found = []
    for file in find(data, "ifeval/*.jsonl"):
        for line in lines(file, "key", "prompt", "instruction_id_list", "kwargs"):
            asked = list(zip(line["instruction_id_list"], line["kwargs"], strict=True))
            for name, settings in asked:
                follows(name, settings, "")  # an unknown instruction is said now, not after hours
            found.append(Open(f"{file.stem}:{line['key']}", "ifeval", line["prompt"], _judge(asked), num_tokens))
    return found


def _judge(asked: list[tuple[str, dict[str, Any]]]):
    def measure(text: str) -> dict[str, Any]:
        strict = [follows(name, settings, text) for name, settings in asked]
        loose = [any(follows(name, settings, variant) for variant in variants(text)) for name, settings in asked]
        return {
            "prompt_strict": all(strict),
            "prompt_loose": all(loose),
            "instruction_strict": strict,
            "instruction_loose": loose,
        }

    return measure


def variants(text: str) -> list[str]:
    """The text and without its first line, its last, or both (an introduction, an outro), each also without `*`."""
    rows = text.split("\n")
    cut = [rows, rows[1:], rows[:-1], rows[1:-1]]
    plain = ["\n".join(part).strip() for part in cut]
    return [text, *plain[1:], *(part.replace("*", "") for part in [text, *plain[1:]])]
