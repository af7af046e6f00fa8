"""The whole config as training reads it, and the same config with every default spelled."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from configs.schema import complete, parse
from data.config import VocabularyConfig
from data.conversations import ConversationsConfig, PreferencesConfig
from data.robots import EmbodimentConfig, EpisodesConfig
from data.sources import SourceConfig
from model.config import ModelConfig
from sharding.mesh import MeshConfig
from train.config import PhaseConfig, TrainConfig
from train.objectives import OBJECTIVES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sections:
    """The checked sections that describe data and models."""

    seed: int = 0  # of initial weights, order of data and noise
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)  # devices
    vocabulary: VocabularyConfig
    sources: dict[str, SourceConfig]
    models: dict[str, ModelConfig]
    embodiments: dict[str, EmbodimentConfig] = dataclasses.field(default_factory=dict)  # robots

    def __post_init__(self):
        indices = [e.index for e in self.embodiments.values()]
        if sorted(indices) != list(range(len(indices))):
            raise ValueError(f"embodiments have the indices {indices}; give each its own, counted from 0")
        turns = {n: s.turn for n, s in self.sources.items() if isinstance(s, ConversationsConfig | PreferencesConfig)}
        if len(set(turns.values())) > 1:
            raise ValueError(f"sources have the turns {turns}; a model has one way to write turns, make them equal")
        for name, source in self.sources.items():
            if isinstance(source, EpisodesConfig) and source.embodiment not in self.embodiments:
                raise ValueError(
                    f"sources.{name}.embodiment is {source.embodiment!r}; config.embodiments has "
                    f"{', '.join(self.embodiments) or 'none'}"
                )

    @classmethod
    def of(cls, config: ConfigDict) -> Sections:
        """Raises ValueError naming the field that is wrong."""
        names = {field.name for field in dataclasses.fields(cls)}
        return parse(cls, {name: value for name, value in config.items() if name in names}, "config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Sections):
    """A whole config; `evaluate` is what `python -m eval` reads."""

    train: TrainConfig
    phases: dict[str, PhaseConfig]
    evaluate: dict[str, Any] = dataclasses.field(default_factory=dict)


def completed(config: ConfigDict) -> ConfigDict:
    """A copy of `config` with every default spelled, those of each phase's objective included."""
    config = complete(Config, config)
    phases: Any = config.get("phases")
    all_phases: list[Any] = list(phases.values()) if isinstance(phases, ConfigDict) else []
    for phase in all_phases:
        options: Any = phase.get("options") if isinstance(phase, ConfigDict) else None
        module: Any = OBJECTIVES.get(str(phase.get("objective"))) if isinstance(options, ConfigDict) else None
        if hasattr(module, "Options"):
            phase["options"] = complete(module.Options, options)
    return config
