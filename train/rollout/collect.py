"""From prompts to a batch to learn from: answers are drawn, rewarded, and laid out as rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from data.batch import Batch
from data.elements import Document, Tokens
from data.layout import RowShape, collate, lay_out
from data.permutation import key_of
from train.objectives.policy import LOGGED
from train.rewards import RewardConfig, rewarded
from train.rollout.prompts import PromptPipeline, Prompts
from train.rollout.sampler import Sampler
from train.rollout.samples import Draws, Group, Row, Sample
from train.step import TrainState

Score = Callable[[Any, Any, Batch], jax.Array]  # (params, buffers, rows) -> float32[B], log-probability of each answer


@dataclasses.dataclass(frozen=True)
class Rewarder:
    """Draws answers and rewards them. What is drawn for a prompt is a pure function of (parameters, seed, name)."""

    sampler: Sampler
    rewards: Mapping[str, RewardConfig]
    seed: int

    def __call__(
        self, params: Any, buffers: Any, prompts: Prompts, samples: int, name: str, *, temperature: float = 1.0
    ) -> list[tuple[Sample, ...]]:
        numbers = range(prompts.first, prompts.first + len(prompts.problems))
        seeds = [[key_of(self.seed, name, number, i) % (1 << 32) for i in range(samples)] for number in numbers]
        drawn = self.sampler.draw(params, buffers, prompts.documents, np.array(seeds), temperature=temperature)
        each = zip(prompts.problems, drawn, strict=True)
        return [tuple(rewarded(self.rewards, problem, sample) for sample in group) for problem, group in each]


class Collector:
    """Turns the prompts of a step into its batch, with the parameters that the step begins with.

    updates: steps whose answers are drawn together, with the parameters that the first of them begins with. A run may
    be taken up again between two such cycles, not inside one.
    """

    def __init__(
        self,
        pipeline: PromptPipeline,
        rewarder: Rewarder,
        shape: RowShape,
        *,
        draws: Draws,
        rows_of: Callable[[Group], list[Row]],
        score: Score,
        updates: int = 1,
    ):
        self._pipeline, self._rewarder, self._shape = pipeline, rewarder, shape
        self._draws, self._rows_of, self._score, self.updates = draws, rows_of, score, updates
        self._waiting: list[Batch] = []

    def __call__(self, state: TrainState, prompts: Prompts) -> Batch:
        """`prompts`: those of this step."""
        if not self._waiting:
            if self.updates > 1:
                first_row = prompts.first * self._pipeline.samples
                prompts = self._pipeline.prompts(first_row, self.updates)
            rows = [self._rows_of(group) for group in self._groups(state, prompts)]
            share = len(rows) // self.updates
            parts = [slice(start, start + share) for start in range(0, len(rows), share)]
            self._waiting = [batch_of(prompts.documents[part], rows[part], self._shape) for part in parts]
        return self._waiting.pop(0)

    def _groups(self, state: TrainState, prompts: Prompts) -> list[Group]:
        draws = self._draws
        policy = self._rewarder(state.params, state.buffers, prompts, draws.policy, "policy")
        anchor: list[tuple[Sample, ...]] = [()] * len(policy)
        if draws.anchor:
            anchor = self._rewarder(state.ema, state.buffers, prompts, draws.anchor, "anchor")
        if draws.scored:
            policy = self._scored(state, prompts, policy)
        return [
            Group(document, problem, own, other)
            for document, problem, own, other in zip(prompts.documents, prompts.problems, policy, anchor, strict=True)
        ]

    def _scored(
        self, state: TrainState, prompts: Prompts, policy: list[tuple[Sample, ...]]
    ) -> list[tuple[Sample, ...]]:
        """The policy's answers with their log-probability under the moving average."""
        rows = [[Row(sample, 0.0) for sample in group] for group in policy]
        scores = iter(
            jax.device_get(self._score(state.ema, state.buffers, batch_of(prompts.documents, rows, self._shape)))
        )
        return [tuple(dataclasses.replace(s, anchor_logprob=float(next(scores))) for s in group) for group in policy]


def batch_of(prompts: Sequence[Document], rows: Sequence[Sequence[Row]], shape: RowShape) -> Batch:
    """One row for each answer: its prompt and itself, the answer's tokens with weight 1.

    `values` holds what objectives on a policy read: "coefficient" and "of_policy" float32[B]; "logprob" float32[B,T],
    as drawn; and what is logged (see `train.objectives.policy`).
    """
    pairs = [(prompt, row) for prompt, group in zip(prompts, rows, strict=True) for row in group]
    laid_out = collate([_row(prompt, row, shape) for prompt, row in pairs])
    values = {
        "coefficient": np.array([row.coefficient for _, row in pairs], np.float32),
        "of_policy": np.array([row.of_policy for _, row in pairs], np.float32),
        **_logged([row for _, row in pairs]),
    }
    return dataclasses.replace(laid_out, values=laid_out.values | values)


def _row(prompt: Document, row: Row, shape: RowShape) -> Batch:
    ids = row.sample.ids
    laid_out = lay_out([(*prompt, Tokens(ids, np.ones(len(ids), np.float32)))], shape)
    logprob_T = np.zeros(shape.slots, np.float32)
    logprob_T[laid_out.loss_weights > 0] = row.sample.logprobs
    return dataclasses.replace(laid_out, values={"logprob": logprob_T})


def _logged(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """(sum, weight) of each row: those of the policy's own answers count."""
    own_B = np.array([row.of_policy for row in rows], np.float32)
    samples = [row.sample for row in rows]
    found = {
        "reward": [sample.reward for sample in samples],
        **{f"reward/{name}": [sample.rewards[name] for sample in samples] for name in samples[0].rewards},
        "length": [len(sample.ids) for sample in samples],
        "ended": [sample.ended for sample in samples],
    }
    return {LOGGED + name: np.stack([np.array(v, np.float32) * own_B, own_B], axis=1) for name, v in found.items()}
