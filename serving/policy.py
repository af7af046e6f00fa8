"""A policy: what a robot sees, is told and feels -> the next actions, in its own units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from data.batch import Batch
from serving.acting import Head, head_of, noise_of, normalised_chunks
from serving.model import LoadedModel
from serving.observing import Observation, Observer
from serving.token_actions import TokenActions
from train.checkpoint import Checkpoint

__all__ = ["Actor", "Observation", "Policy"]


class Actor(Protocol):
    """Whatever acts, in this process, behind a server or in an evaluation."""

    def act(self, observations: Sequence[Observation]) -> list[np.ndarray]:
        """float32[C,a] for each observation: absolute actions in the robot's units, one a control step.

        Raises ValueError for an observation that it cannot use, naming the field.
        """
        ...


class Policy:
    """Chunks of actions from a checkpoint; the transforms are those it was trained with.

    What acts is the head that its phase trained (see `serving.acting.head_of`): flow matching, bins or regression for a
    whole chunk at once, or action tokens one after the other. batch_size: observations that one compiled call takes, or
    several such sizes to choose from; more are cut into several calls, fewer are padded. An observation's chunk depends
    on neither, nor on its neighbours.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        batch_size: int | Sequence[int] = 1,
        seed: int = 0,
        untrained: bool = False,
    ):
        self.model = LoadedModel.of(checkpoint, untrained=untrained)
        sources = [checkpoint.config["sources"][name] for name in self.model.phase["mixture"]]
        tokens = any("embodiment" in source and not source.get("continuous", True) for source in sources)
        head = head_of(self.model.config, self.model.phase["objective"], tokens=tokens)
        if head is None:
            raise ValueError(
                f"{checkpoint.path} is of phase {checkpoint.phase!r}, whose model has no action head; give a phase "
                "whose model has `flow`, `bins` or `l1`, or whose sources have action tokens"
            )
        self.batch_sizes = sorted({batch_size} if isinstance(batch_size, int) else set(batch_size))
        if not self.batch_sizes or self.batch_sizes[0] < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.head: Head = head
        self.batch_size = self.batch_sizes[-1]
        self.observer = Observer(checkpoint, self.model)
        self._key, self._count = jax.random.key(seed), 0
        self._tokens = TokenActions(self.model, self.observer) if head == "tokens" else None
        self._chunks, self._planned = jax.jit(self._sample), jax.jit(self._plan)

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> Policy:
        """From `<workdir>/<phase>` or one checkpoint in it. Raises ValueError where there is none."""
        return cls(Checkpoint.open(path), **options)

    @property
    def embodiments(self) -> tuple[str, ...]:
        """The robots that it knows."""
        return tuple(self.observer.rows.sources)

    def act(self, observations: Sequence[Observation]) -> list[np.ndarray]:
        """See `Actor.act`. Where action tokens stand for no chunk, `Observation.running` goes on."""
        numbers = [self._number(observation) for observation in observations]
        chunks: list[np.ndarray] = []
        for start in range(0, len(observations), self.batch_size):
            part = slice(start, start + self.batch_size)
            chunks += self._act(observations[part], numbers[part])
        return chunks

    def planned(self, observations: Sequence[Observation]) -> Batch:
        """The rows that the chunks of at most `batch_size` observations are predicted from."""
        return self._planned(
            self.model.params, self.model.buffers, self.observer.observe(observations, self.batch_size)[1]
        )

    def _number(self, observation: Observation) -> int:
        """What the noise of an observation follows from, together with the policy's seed."""
        if observation.seed is not None:
            return observation.seed
        self._count += 1
        return self._count - 1

    def _act(self, observations: Sequence[Observation], numbers: Sequence[int]) -> list[np.ndarray]:
        size = next(size for size in self.batch_sizes if size >= len(observations))
        samples, batch = self.observer.observe(observations, size)
        weights = self.model.params, self.model.buffers
        if self._tokens is not None:
            return self._tokens.act(samples, observations, self._planned(*weights, batch))
        number_B = np.zeros(size, np.uint32)
        number_B[: len(numbers)] = numbers
        actions_BCA = np.asarray(self._chunks(*weights, batch, number_B))
        return [self.observer.in_units(*each) for each in zip(samples, observations, actions_BCA, strict=False)]

    def _plan(self, params: Any, buffers: Any, batch: Batch) -> Batch:
        """The rows with the plan that the model makes for them, where its documents have one."""
        rows, vocabulary = self.observer.rows, self.model.vocabulary
        batch = jax.tree.map(jnp.asarray, batch)
        if not rows.plan_length:
            return batch
        return rows.with_plan(batch, rows.plan(self.model.module(params, buffers), batch, vocabulary), vocabulary)

    def _sample(self, params: Any, buffers: Any, batch: Batch, number_B: jax.Array) -> jax.Array:
        assert self.head != "tokens"
        batch = self._plan(params, buffers, batch)
        noise = noise_of(self._key, number_B, batch.values["action"].shape[1:]) if self.head == "flow" else None
        return normalised_chunks(self.model.module(params, buffers), batch, self.head, noise)


if __name__ == "__main__":
    from serving.robot.__main__ import main

    main()
