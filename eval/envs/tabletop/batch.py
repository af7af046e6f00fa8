"""Several tabletops of one arm and task side by side, for policies that act on batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.envs.tabletop.env import Observation, Tabletop


class TabletopBatch:
    """`size` environments stepped in turn; one that has succeeded or run out of steps stands still until reset.

    `success` and `done` are bool[size]; `instructions` holds one sentence for each.
    """

    def __init__(self, arm: str, task: str, size: int, wording: str = "train"):
        self.envs = [Tabletop(arm, task, wording) for _ in range(size)]
        self.max_steps = self.envs[0].max_steps
        self.success, self.done = np.zeros(size, bool), np.zeros(size, bool)
        self.instructions: list[str] = []
        self._steps = 0

    def reset(self, seeds: Sequence[int]) -> Observation:
        """Starts one episode for each seed; observations are stacked along a first axis."""
        if len(seeds) != len(self.envs):
            raise ValueError(f"{len(seeds)} seeds for {len(self.envs)} environments; give one seed for each")
        observations = [env.reset(seed) for env, seed in zip(self.envs, seeds, strict=True)]
        self.instructions = [env.instruction for env in self.envs]
        self.success[:], self.done[:], self._steps = False, False, 0
        return _stack(observations)

    def step(self, actions_NA: np.ndarray, render: bool = True) -> tuple[Observation | None, np.ndarray]:
        """Acts for one control step; returns the observations (None unless `render`) and `done`."""
        for index in np.flatnonzero(~self.done):
            _, self.success[index] = self.envs[index].step(actions_NA[index], render=False)
        self._steps += 1
        self.done |= self.success | (self._steps >= self.max_steps)
        return (_stack([env.observe() for env in self.envs]) if render else None), self.done.copy()


def _stack(observations: Sequence[Observation]) -> Observation:
    return {name: np.stack([observation[name] for observation in observations]) for name in observations[0]}
