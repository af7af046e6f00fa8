"""The `rollout` section of a phase: how many answers are drawn for a prompt, how long, and what they are worth."""

from __future__ import annotations

import dataclasses

from train.rewards import NumberReward, RewardConfig


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """A batch of `pipeline.batch_size` rows is made of `batch_size / samples` prompts with `samples` rows each.

    rewards: by name, summed with their weights.
    """

    samples: int  # rows of each prompt
    prompt_slots: int  # of the longest prompt, bos included
    num_tokens: int  # that an answer has at most, end-of-text included
    rewards: dict[str, RewardConfig] = dataclasses.field(default_factory=lambda: {"number": NumberReward()})

    def __post_init__(self):
        for field in ("samples", "prompt_slots", "num_tokens"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be at least 1")
        if not self.rewards:
            raise ValueError("rewards is empty; name at least one, such as number: {kind: 'number'}")

    @property
    def slots(self) -> int:
        """Of a row: a prompt and its answer."""
        return self.prompt_slots + self.num_tokens
