"""The 25 verifiable instructions of IFEval (arXiv 2311.07911, table 1): does a text follow one?

Counts of words and sentences are by the plain rules below, not by a trained tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from eval.suites.languages import is_language

Settings = dict[str, Any]
_ABBREVIATIONS = r"(?<!\b(?:Mr|Ms|Dr|St|Jr|Sr|vs))(?<!\b(?:Mrs|etc))(?<!\b[A-Z])(?<!\be\.g)(?<!\bi\.e)"
_SENTENCE_END = re.compile(rf"(?:[!?…]+|{_ABBREVIATIONS}\.+)[\"')\]”’]*(?:\s+|$)")


def follows(instruction: str, settings: Settings, text: str) -> bool:
    """Whether `text` follows the instruction; an empty text follows none.

    Raises ValueError for an instruction that is not one of the 25.
    """
    if instruction not in CHECKS:
        raise ValueError(f"instruction {instruction!r} is not known; known: {', '.join(sorted(CHECKS))}")
    return bool(text.strip()) and bool(CHECKS[instruction](text, {k: v for k, v in settings.items() if v is not None}))


def count_words(text: str) -> int:
    return len(re.findall(r"\w+", text))


def count_sentences(text: str) -> int:
    """Pieces with a word in them, between full stops, question and exclamation marks that a space follows."""
    return sum(bool(re.search(r"\w", piece)) for piece in _SENTENCE_END.split(text))


def _compare(count: int, relation: str, wanted: int) -> bool:
    if relation not in ("less than", "at least"):
        raise ValueError(f"relation is {relation!r}; allowed: 'less than', 'at least'")
    return count < wanted if relation == "less than" else count >= wanted


def _has_all(text: str, s: Settings) -> bool:
    return all(re.search(re.escape(word), text, re.IGNORECASE) for word in s["keywords"])


def _has_none(text: str, s: Settings) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in s["forbidden_words"])


def _frequency(text: str, s: Settings) -> bool:
    count = len(re.findall(re.escape(s["keyword"]), text, re.IGNORECASE))
    return _compare(count, s["relation"], s["frequency"])


def _letters(text: str, s: Settings) -> bool:
    return _compare(text.lower().count(s["letter"].lower()), s["let_relation"], s["let_frequency"])


def _paragraphs(text: str, s: Settings) -> bool:
    """Divided by ***."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    inner = parts[bool(not parts[0]) : len(parts) - bool(not parts[-1])]
    return all(inner) and len(inner) == s["num_paragraphs"]


def _nth_paragraph(text: str, s: Settings) -> bool:
    """Paragraphs divided by an empty line; the n-th begins with the word."""
    parts = [part.strip() for part in re.split(r"\n\n", text) if part.strip()]
    n = s["nth_paragraph"]
    if len(parts) != s["num_paragraphs"] or n > len(parts):
        return False
    first = re.match(r"[^\w]*([\w'’-]*)", parts[n - 1])
    return first is not None and first.group(1).lower() == s["first_word"].lower()


def _postscript(text: str, s: Settings) -> bool:
    marker = s["postscript_marker"]
    spaced = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}  # spaces between the letters are allowed
    pattern = spaced[marker] if marker in spaced else re.escape(marker.lower())
    return re.search(pattern, text.lower()) is not None


def _bullets(text: str, s: Settings) -> bool:
    return len(re.findall(r"^\s*(?:\*[^*]|-)", text, re.MULTILINE)) == s["num_bullets"]


def _highlights(text: str, s: Settings) -> bool:
    """*so* or **so**, with something between the marks."""
    found = re.findall(r"\*\*([^\n*]+)\*\*|\*([^\n*]+)\*", text)
    return sum(bool((double or single).strip()) for double, single in found) >= s["num_highlights"]


def _sections(text: str, s: Settings) -> bool:
    return len(re.findall(rf"{re.escape(s['section_spliter'])}\s?\d+", text)) >= s["num_sections"]


def _is_json(text: str, s: Settings) -> bool:
    del s
    bare = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE).strip()
    try:
        json.loads(bare)
    except ValueError:
        return False
    return True


def _two_responses(text: str, s: Settings) -> bool:
    """Divided by ******, and not the same."""
    del s
    parts = [part.strip() for part in text.split("******")]
    inner = parts[bool(not parts[0]) : len(parts) - bool(not parts[-1])]
    return len(inner) == 2 and all(inner) and inner[0] != inner[1]


def _capital_words(text: str, s: Settings) -> bool:
    count = sum(word.isupper() for word in re.findall(r"[\w'’-]+", text))
    return _compare(count, s["capital_relation"], s["capital_frequency"])


def _constrained(text: str, s: Settings) -> bool:
    del s
    return any(f"My answer is {word}." in text for word in ("yes", "no", "maybe"))


def _quoted(text: str, s: Settings) -> bool:
    del s
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


def _starts_with_prompt(text: str, s: Settings) -> bool:
    return text.strip().lower().startswith(s["prompt_to_repeat"].strip().lower())


def _ends(text: str, s: Settings) -> bool:
    return text.strip().strip('"').lower().endswith(s["end_phrase"].strip().lower())


CHECKS: dict[str, Callable[[str, Settings], bool]] = {
    "keywords:existence": _has_all,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _has_none,
    "keywords:letter_frequency": _letters,
    "language:response_language": lambda text, s: is_language(text, s["language"]),
    "length_constraints:number_sentences": lambda text, s: _compare(
        count_sentences(text), s["relation"], s["num_sentences"]
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda text, s: _compare(count_words(text), s["relation"], s["num_words"]),
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": lambda text, s: (
        len(re.findall(r"\[.*?\]", text)) >= s["num_placeholders"]
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _is_json,
    "detectable_format:title": lambda text, s: re.search(r"<<[^\n>]*[^\s>][^\n>]*>>", text) is not None,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _starts_with_prompt,
    "startend:end_checker": _ends,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda text, s: text.isupper() and is_language(text, "en"),
    "change_case:english_lowercase": lambda text, s: text.islower() and is_language(text, "en"),
    "punctuation:no_comma": lambda text, s: "," not in text,
}
