"""The rows of a phase: its sources, with one transform for each embodiment."""

from __future__ import annotations

import contextlib
import pathlib
from typing import Any

from ml_collections import ConfigDict

from configs.schema import parse
from data.config import TextConfig
from data.conversations import ConversationsConfig, PreferencesConfig
from data.fast import Fast
from data.pipeline import Pipeline
from data.problems import ArithmeticConfig, QuestionsConfig
from data.robots import EpisodesConfig, PointingConfig, Split, transform_of
from data.source import Source
from data.sources import SourceConfig
from data.statistics import Statistics
from data.transforms import Compose, Transform
from data.vocabulary import Vocabulary
from train.config import PhaseConfig
from train.sections import Sections

CACHE = pathlib.Path(".cache/tokens")


@contextlib.contextmanager
def named(where: str):
    """Errors of what a section builds begin with the section's name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


class Data:
    """The sources of one phase, with one transform for each embodiment."""

    def __init__(self, sections: Sections, phase: PhaseConfig, vocabulary: Vocabulary):
        self.sections, self.phase, self.vocabulary = sections, phase, vocabulary
        self.robots: dict[str, tuple[Transform, Statistics]] = {}
        episodes = {n: source for n, source in sections.sources.items() if isinstance(source, EpisodesConfig)}
        for robot in dict.fromkeys(source.embodiment for source in episodes.values()):
            own = {name: source for name, source in episodes.items() if source.embodiment == robot}
            with named(f"config.sources.{', '.join(own)}"):
                self.robots[robot] = transform_of(sections.embodiments[robot], robot, list(own.values()))

    def sources(self, part: Split) -> dict[str, Source]:
        """The sources that have documents in this part, by name."""
        found = {}
        for name in self.phase.mixture:
            source = self.sections.sources[name]
            if part == "train" or source.holdout:
                with named(f"config.sources.{name}"):
                    found[name] = self._build(source, part)
        return found

    def stored_transform(self, robot: str) -> Transform:
        """What a checkpoint keeps of a robot: its transform, and what the codes mean that its actions are told in."""
        chosen = {name: self.sections.sources[name] for name in self.phase.mixture}
        own = [s for s in chosen.values() if isinstance(s, EpisodesConfig) and s.embodiment == robot]
        files = {source.fast for source in own if source.fast is not None}
        if len(files) > 1:
            raise ValueError(f"fast differs among the sources of embodiment {robot!r}: {sorted(files)}; name one file")
        transform = self.robots[robot][0]
        return Compose((transform, *(Fast.load(file) for file in files))) if files else transform

    def _build(self, source: SourceConfig, part: Split) -> Source:
        if isinstance(source, TextConfig):
            return source.build(self.vocabulary, self.phase.pipeline.slots, CACHE, part)
        if isinstance(source, PointingConfig | ArithmeticConfig | QuestionsConfig):
            return source.build(self.vocabulary, self.sections.seed, part)
        if isinstance(source, ConversationsConfig | PreferencesConfig):
            pipeline = self.phase.pipeline
            return source.build(self.vocabulary, pipeline.slots, pipeline.image_size, part)
        embodiment = self.sections.embodiments[source.embodiment].embodiment(source.embodiment)
        transform = self.robots[source.embodiment][0]
        return source.build(embodiment, transform, self.vocabulary, part, self.sections.seed)


def rows_of(config: ConfigDict, name: str) -> tuple[Pipeline, Vocabulary]:
    """The training rows of phase `name` and the vocabulary of their tokens."""
    sections = Sections.of(config)
    plain: dict[str, Any] = config.to_dict()
    phase = parse(PhaseConfig, plain["phases"][name], f"config.phases.{name}")
    with named("config.vocabulary"):
        vocabulary = sections.vocabulary.build()
    sources = Data(sections, phase, vocabulary).sources("train")
    return phase.pipeline.build(sources, phase.mixture, vocabulary, sections.seed), vocabulary
