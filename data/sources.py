"""Every kind of source that a config can name."""

from __future__ import annotations

from data.config import TextConfig
from data.conversations import ConversationsConfig, PreferencesConfig
from data.problems import ArithmeticConfig, QuestionsConfig
from data.robots import EpisodesConfig, PointingConfig

SourceConfig = (
    TextConfig
    | ConversationsConfig
    | PreferencesConfig
    | ArithmeticConfig
    | QuestionsConfig
    | EpisodesConfig
    | PointingConfig
)
