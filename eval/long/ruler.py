"""RULER (arXiv 2404.06654): twelve of its thirteen tasks, all but questions that need two paragraphs (HotpotQA).

Own generators with the published settings (their appendix B): eight needle tasks that differ in haystack, keys, values
and what is asked; variable tracking (1 chain, 4 hops); common words (10, each 30 times among others 3 times; 6 and 1
below 4,096 tokens); frequent words (Zipf, alpha 2.0); questions about a paragraph, where --data has them. An answer's
score is the share of what was asked that it holds; of a question's answers one is enough.
"""

from __future__ import annotations

import dataclasses
import string
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.vocabulary import Vocabulary
from eval.long.haystack import Book, TooLong, fill, spread
from eval.long.heatmap import heatmap, short
from eval.long.reading import FILES, Paragraphs
from eval.long.reading import NUM_TOKENS as READING_TOKENS
from eval.suites.items import Open, Record
from eval.suites.job import Suite, rates

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
PASSES = 0.856  # of Llama 2 7B at 4k: the paper's threshold for a length that is really used
COMMON, FREQUENT, HOPS = 10, 3, 4
Prompt = tuple[str, tuple[str, ...]]  # the text, what its answer should hold


@dataclasses.dataclass(frozen=True)
class Needles:
    """haystack: noise, essay (the book) or needle (others of the kind). keys: that are hidden, each with `values`;
    `queries` of them are asked for."""

    haystack: str
    key: str = "words"
    value: str = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1


NEEDLES = {
    "niah_single_1": Needles("noise"),
    "niah_single_2": Needles("essay"),
    "niah_single_3": Needles("essay", value="uuids"),
    "niah_multikey_1": Needles("essay", keys=4),
    "niah_multikey_2": Needles("needle"),
    "niah_multikey_3": Needles("needle", key="uuids", value="uuids"),
    "niah_multivalue": Needles("essay", values=4),
    "niah_multiquery": Needles("essay", keys=4, queries=4),
}
NUM_TOKENS = dict.fromkeys(NEEDLES, 128) | {"vt": 30, "cwe": 120, "fwe": 50, "qa_1": READING_TOKENS}
TASKS = tuple(NUM_TOKENS)


@dataclasses.dataclass(frozen=True)
class Material:
    """What prompts are made of."""

    book: Book
    paragraphs: Paragraphs | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(task for task in TASKS if task != "qa_1" or self.paragraphs)


def suite(
    vocabulary: Vocabulary,
    texts: Sequence[Path],
    lengths: Sequence[int],
    samples: int,
    seed: int,
    data: Path | None = None,
) -> Suite:
    """`samples` prompts for each length and task; a length counts prompt and answer, in the vocabulary's tokens.

    A task whose shortest prompt is longer is left out at that length, and named so in the summary. Raises ValueError
    where none is left.
    """
    material, items, left_out = Material(Book(texts), Paragraphs.find(data)), [], []
    for length in lengths:
        for index, task in enumerate(material.tasks):
            seeds = [(seed, length, index, sample) for sample in range(samples)]
            try:
                items += [item(vocabulary, material, task, length, each) for each in seeds]
            except TooLong as error:
                left_out.append(f"{task} at {length}: {error}")
    if not items:
        raise ValueError(f"no task of ruler fits: {left_out[0]}")
    if material.paragraphs is None:
        left_out.append(f"qa_1: --data has neither {' nor '.join(FILES)}")
    return Suite("ruler", items, lambda records, folder: finish(records, folder) | {"left_out": left_out})


def item(vocabulary: Vocabulary, material: Material, task: str, length: int, seed: tuple[int, ...]) -> Open:
    budget, book = length - NUM_TOKENS[task], material.book

    def build(n: int) -> Prompt:
        rng = np.random.default_rng(seed)  # the same for every n, so that a longer prompt is the same one, longer
        if task in NEEDLES:
            return niah(NEEDLES[task], book, rng, n)
        if task == "vt":
            return variable_tracking(rng, n)
        if task == "qa_1":
            assert material.paragraphs is not None, "without them it is none of the tasks"
            return material.paragraphs.prompt(rng, n)
        return common_words(book, rng, n, length) if task == "cwe" else frequent_words(rng, n, length)

    text, gold = fill(vocabulary, build, budget)
    score = string_match_part if task == "qa_1" else string_match_all
    return Open(
        f"{length}:{task}:{seed[-1]}",
        f"{length}/{task}",
        text,
        lambda answer: {"score": score(answer, gold), "any": string_match_part(answer, gold)},
        NUM_TOKENS[task],
        notes={"gold": list(gold)},
    )


def string_match_all(answer: str, gold: Sequence[str]) -> float:
    """The share of what was asked that the answer holds, in any case of letters."""
    return sum(value.lower() in answer.lower() for value in gold) / len(gold)


def string_match_part(answer: str, gold: Sequence[str]) -> bool:
    """Whether the answer holds any of it."""
    return any(value.lower() in answer.lower() for value in gold)


def niah(kind: Needles, book: Book, rng: np.random.Generator, n: int) -> Prompt:
    keys = [_draw(kind.key, book, rng) for _ in range(kind.keys)]
    values = [[_draw(kind.value, book, rng) for _ in range(kind.values)] for _ in keys]
    needles = [_needle(kind, key, value) for key, several in zip(keys, values, strict=True) for value in several]
    depths = rng.uniform(size=len(needles)).tolist()
    asked = sorted(rng.choice(kind.keys, kind.queries, replace=False).tolist())
    start = int(rng.integers(len(book.sentences)))
    if kind.haystack == "needle":
        around = [_needle(kind, _draw(kind.key, book, rng), _draw(kind.value, book, rng)) for _ in range(n)]
    else:
        around = [NOISE] * n if kind.haystack == "noise" else book.read(start, n)
    context = ("\n" if kind.haystack == "noise" else " ").join(spread(around, needles, depths))
    gold = tuple(value for i in asked for value in values[i])
    return _ask(kind, [keys[i] for i in asked], context, several=len(gold) > 1), gold


def _ask(kind: Needles, keys: list[str], context: str, *, several: bool) -> str:
    query = keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])}, and {keys[-1]}"
    value = kind.value if several else kind.value[:-1]
    begin, ask, verb = ("Some", "What are all the", "are") if several else ("A", "What is the", "is")
    return (
        f"{begin} special magic {value} {verb} hidden within the following text. Make sure to memorize it. I will quiz "
        f"you about the {value} afterwards.\n{context}\n{ask} special magic {value} for {query} mentioned in the "
        f"provided text? The special magic {value} for {query} mentioned in the provided text {verb}"
    )


def variable_tracking(rng: np.random.Generator, n: int) -> Prompt:
    """After a worked example with names of three letters and five pieces of noise."""
    example, found = _chain(rng, 5, letters=3)
    asked, gold = _chain(rng, n, letters=5)
    return f"{example} {' '.join(found)}\n\n{asked}", gold


def _chain(rng: np.random.Generator, n: int, letters: int) -> Prompt:
    names: list[str] = []
    while len(names) < HOPS + 1:
        name = "".join(rng.choice(list(string.ascii_uppercase), letters))
        names += [name] if name not in names else []
    value = str(rng.integers(10_000, 100_000))
    sources = [value, *(f"VAR {name}" for name in names)]
    lines = [f"VAR {name} = {source}" for name, source in zip(names, sources, strict=False)]
    depths = np.sort(rng.uniform(size=len(lines))).tolist()  # a variable is given before it is used
    context = "\n".join(spread([NOISE] * n, lines, depths))
    return (
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
        f"{context}\nQuestion: Find all variables that are assigned the value {value} in the text above. Answer: "
        f"According to the chain(s) of variable assignment in the text above, {len(names)} variables are assigned the "
        f"value {value}, they are:",
        tuple(names),
    )


def common_words(book: Book, rng: np.random.Generator, n: int, length: int) -> Prompt:
    """`COMMON` words many times among n that are there a few times, after a worked example."""
    words = rng.permutation(book.words).tolist()
    # A small book has no more words: from then on the others are made of two.
    pairs = (f"{words[i % len(words)]}-{words[(7 * i + 1) % len(words)]}" for i in range(n))
    shown, rest = words[:40], [*words[40:], *pairs]
    gold, others = rest[:COMMON], rest[COMMON : COMMON + n]
    if length < 4096:
        example = _numbered(rng, shown[:COMMON], shown[COMMON:20], 3, 1)
        listed = _numbered(rng, gold, others, 6, 1)
    else:
        example = _numbered(rng, shown[:COMMON], shown[COMMON:], 10, 3)
        listed = _numbered(rng, gold, others, 30, 3)
    found = " ".join(f"{i}. {word}" for i, word in enumerate(shown[:COMMON], 1))
    return f"{example} {found}\n{listed}", tuple(gold)


def _numbered(rng: np.random.Generator, common: list[str], others: list[str], often: int, seldom: int) -> str:
    listed = rng.permutation(common * often + others * seldom)
    return (
        "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
        f"appear most often.\n{' '.join(f'{i}. {word}' for i, word in enumerate(listed, 1))}\nQuestion: What are the "
        f"{COMMON} most common words in the above list? Answer: The top {COMMON} words that appear most often in the "
        "list are:"
    )


def frequent_words(rng: np.random.Generator, n: int, length: int) -> Prompt:
    """Words of six random letters whose counts fall with the square of their rank; the first is dots and not asked."""
    size = max(FREQUENT + 1, length // 50)
    words = ["".join(rng.choice(list(string.ascii_lowercase), 6)) for _ in range(size)]
    words[0] = "..."
    rank_N = np.arange(1, size + 1)
    count_N = (n * rank_N**-2.0 * 6 / np.pi**2).astype(int)
    for i in range(FREQUENT, -1, -1):  # what is asked for is told apart in short texts too
        count_N[i] = max(count_N[i], (count_N[i + 1] if i + 1 < size else 0) + 1)
    listed = rng.permutation([word for word, count in zip(words, count_N, strict=True) for _ in range(count)])
    return (
        "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
        f"appeared coded words. {' '.join(listed)}\nQuestion: Do not provide any explanation. Please ignore the dots "
        "'....'. What are the three most frequently appeared words in the above coded text? Answer: According to the "
        "coded text above, the three most frequently appeared words are:",
        tuple(words[1 : 1 + FREQUENT]),
    )


def finish(records: Sequence[Record], folder: Path) -> dict[str, Any]:
    """The score of each task at each length, the mean of each length, and the longest that passes; draws
    `ruler.png`."""
    figures = rates(records, folder)
    lengths = sorted({int(record["group"].split("/")[0]) for record in records})
    tasks = [task for task in TASKS if any(record["group"].endswith(f"/{task}") for record in records)]
    score_RC = np.full((len(tasks), len(lengths)), np.nan)
    for row, column in np.ndindex(score_RC.shape):
        group = f"{lengths[column]}/{tasks[row]}"
        found = [record["metrics"]["score"] for record in records if record["group"] == group]
        score_RC[row, column] = np.mean(found) if found else np.nan
    mean_C = np.nanmean(score_RC, axis=0)
    passed = [length for length, mean in zip(lengths, mean_C, strict=True) if mean >= PASSES]
    labels = {"title": "RULER: score of each task", "rows": "", "columns": "length (tokens)", "bar": "score (%)"}
    columns = [short(length) for length in lengths]
    heatmap(folder / "ruler.png", np.vstack([score_RC, mean_C]), [*tasks, "mean"], columns, labels)
    by_length = {str(length): float(mean) for length, mean in zip(lengths, mean_C, strict=True)}
    return figures | {"mean_by_length": by_length, "effective_length": max(passed, default=0)}


def _needle(kind: Needles, key: str, value: str) -> str:
    return f"One of the special magic {kind.value} for {key} is: {value}."


def _draw(what: str, book: Book, rng: np.random.Generator) -> str:
    if what == "words":
        return "-".join(rng.choice(book.words, 2))
    return str(uuid.UUID(bytes=rng.bytes(16), version=4)) if what == "uuids" else str(rng.integers(10**6, 10**7))
