"""Shifts that any simulated robot can be put under: what comes out of it and what goes in is changed on the way."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Literal

import numpy as np

from eval.envs.environment import Environment, Sight

Kind = Literal["visual", "instruction", "action"]

SHIFTS: Mapping[str, Kind] = {"light": "visual", "camera": "visual", "typos": "instruction", "slow_arm": "action"}
DIM = 0.55  # what is left of the light, in a tint
MOVED = 0.08  # of the picture's width, along each axis
LAG = 0.5  # share of the action before in the one that is carried out
TYPOS = 2
WORD_LENGTH = 4  # shorter words are not misspelt


class Shifted:
    """An `Environment` under one of `SHIFTS`; what is drawn follows from the episode's seed.

    light: dim and tinted pictures. camera: pictures moved sideways, their edges repeated. typos: misspelt words.
    slow_arm: every action is mixed with the one before.
    """

    def __init__(self, env: Environment, shift: str):
        self._env, self._shift = env, shift
        self.embodiment, self.task, self.control_hz = env.embodiment, env.task, env.control_hz
        self.max_steps, self.cameras = env.max_steps, env.cameras
        self.proprio_names, self.action_names, self.plan_names = env.proprio_names, env.action_names, env.plan_names

    def reset(self, seed: int, anywhere: bool = False) -> None:
        self._env.reset(seed, anywhere)
        rng = np.random.default_rng([seed, zlib.crc32(f"{self._shift}/{self.task}".encode())])
        self._tint_3, self._move_2 = DIM * rng.uniform(0.85, 1.15, 3), rng.choice([-MOVED, MOVED], 2)
        self._before: np.ndarray | None = None
        told = self._env.instruction
        self._instruction = misspell(told, TYPOS, rng) if self._shift == "typos" else told

    @property
    def instruction(self) -> str:
        return self._instruction

    def observe(self) -> Sight:
        sight = self._env.observe()
        return Sight({name: self._seen(image) for name, image in sight.images.items()}, sight.proprio)

    def step(self, action: np.ndarray) -> None:
        before = action if self._before is None else self._before
        self._before = action
        self._env.step((1 - LAG) * action + LAG * before if self._shift == "slow_arm" else action)

    @property
    def success(self) -> bool:
        return self._env.success

    def expert(self) -> np.ndarray:
        return self._env.expert()

    def plan(self) -> np.ndarray:
        return self._env.plan()

    def close(self) -> None:
        self._env.close()

    def _seen(self, image: np.ndarray) -> np.ndarray:
        if self._shift == "light":
            return (self._tint_3 * image).astype(np.uint8)
        if self._shift == "camera":
            rows, columns = (np.arange(n) + round(n * by) for n, by in zip(image.shape, self._move_2, strict=False))
            return image[rows.clip(0, image.shape[0] - 1)][:, columns.clip(0, image.shape[1] - 1)]
        return image


def misspell(sentence: str, count: int, rng: np.random.Generator) -> str:
    """The sentence with a slip in `count` of its words: letters swapped, left out or doubled."""
    words = sentence.split(" ")
    long = [i for i, word in enumerate(words) if len(word) >= WORD_LENGTH]
    for i in rng.permutation(long)[:count].tolist():
        word, at = words[i], int(rng.integers(1, len(words[i]) - 2))
        slips = (
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
        )
        words[i] = slips[rng.integers(len(slips))]
    return " ".join(words)
