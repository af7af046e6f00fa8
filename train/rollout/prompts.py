"""Prompts in a fixed order: prompt n of a mixture of problem sources is a pure function of (seed, n)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping

import numpy as np

from data.elements import Document
from data.mixture import Mixture
from data.problems import Problem, ProblemSource


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Consecutive prompts of the stream: the number of the first, and each with its problem."""

    first: int
    documents: tuple[Document, ...]
    problems: tuple[Problem, ...]


class PromptPipeline:
    """The prompts of batches of `batch_size` rows, `samples` rows of each prompt; rows count as in `data.pipeline`.

    Raises ValueError where a prompt is longer than `prompt_slots`.
    """

    def __init__(
        self,
        sources: Mapping[str, ProblemSource],
        weights: Mapping[str, float],
        seed: int,
        window: int,
        *,
        batch_size: int,
        samples: int,
        prompt_slots: int,
    ):
        for name, source in sources.items():
            lengths = [len(source.prompt(i)[0].ids) for i in range(len(source))]
            if max(lengths) > prompt_slots:
                raise ValueError(
                    f"source {name!r}: the prompt of problem {int(np.argmax(lengths))} takes {max(lengths)} slots, "
                    f"rollout.prompt_slots is {prompt_slots}; raise it, and pipeline.slots with it"
                )
        self.batch_size, self.samples, self._sources = batch_size, samples, sources
        mixture = Mixture(sources, weights, seed, window)
        self._names, self._window = mixture.names, window
        self._window_of = functools.lru_cache(maxsize=2)(mixture.window)

    def iterator(self, start_row: int = 0, host: int = 0, num_hosts: int = 1) -> Iterator[Prompts]:
        """Endless, from a global row on; one host alone."""
        assert (host, num_hosts) == (0, 1)
        while True:
            yield self.prompts(start_row, 1)
            start_row += self.batch_size

    def prompts(self, first_row: int, batches: int) -> Prompts:
        """Those of so many batches."""
        first, num = first_row // self.samples, batches * self.batch_size // self.samples
        places = [self._place(n) for n in range(first, first + num)]
        documents = tuple(source.prompt(index) for source, index in places)
        return Prompts(first, documents, tuple(source.problems[index] for source, index in places))

    def _place(self, n: int) -> tuple[ProblemSource, int]:
        window, place = divmod(n, self._window)
        source_W, index_W = self._window_of(window)[:2]
        return self._sources[self._names[source_W[place]]], int(index_W[place])
