"""Models whose answers are known: they stand where a checkpoint would, and read the text of what they are asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from data.vocabulary import Vocabulary
from eval.language import Request, Score


class Oracle:
    """Knows the answer: likes a continuation if `likes(context, continuation)`, and writes `writes(prompt)`."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        likes: Callable[[str, str], bool] = lambda context, continuation: False,
        writes: Callable[[str], str] = lambda prompt: "",
        context: int = 100_000,
    ):
        self.vocabulary, self.likes, self.writes, self.context = vocabulary, likes, writes, context
        self.asked: list[str] = []

    def score(self, requests: Sequence[Request]) -> list[Score]:
        texts = [(self.vocabulary.decode(c), self.vocabulary.decode(x)) for c, x in requests]
        self.asked += [context for context, _ in texts]
        return [
            Score(np.full(len(x), -0.1 if self.likes(*text) else -9.0, np.float32), False)
            for text, (_, x) in zip(texts, requests, strict=True)
        ]

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        texts = [self.vocabulary.decode(prompt) for prompt in prompts]
        self.asked += texts
        answers = [self.writes(text) for text in texts]
        for s in stop:
            answers = [answer.split(s)[0] for answer in answers]
        return answers


class Guesser:
    """Knows nothing: every token of every continuation has a random log-probability; it writes random pieces."""

    def __init__(self, vocabulary: Vocabulary, seed: int = 0):
        self.vocabulary, self.context, self.rng = vocabulary, 100_000, np.random.default_rng(seed)

    def score(self, requests: Sequence[Request]) -> list[Score]:
        # One number a request, so that its length tells nothing.
        return [Score(self.rng.normal(-50, 1, 1).astype(np.float32), False) for _ in requests]

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        first = self.vocabulary.text_size // 2
        ids = self.rng.integers(first, self.vocabulary.text_size, (len(prompts), min(num_tokens, 20)))
        return [self.vocabulary.decode(row.tolist()) for row in ids]
