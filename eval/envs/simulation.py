"""What the packaged simulators have in common: instructions by seed, cameras, a success that stays."""

from __future__ import annotations

import abc
import zlib
from collections.abc import Mapping

import mujoco
import numpy as np

from eval.envs.disturbance import Disturbance
from eval.envs.environment import Sight, checked_action
from eval.envs.rendering import Renderer

WANDER = 40  # control steps before an episode that begins anywhere, at most
Wordings = Mapping[str, Mapping[str, tuple[str, ...]]]  # task -> "train" or "test" -> sentences


class Simulation(abc.ABC):
    """An `Environment` by a package; subclasses start episodes, advance them and know what an expert would do.

    wording: "train" or "test"; it changes the sentence and nothing else.
    """

    embodiment: str
    control_hz: float
    max_steps: int
    proprio_names: tuple[str, ...]
    action_names: tuple[str, ...]
    plan_names: tuple[str, ...] = ()

    def __init__(self, task: str, wordings: Wordings, wording: str, cameras: tuple[str, ...], image_size: int):
        self.task, self.cameras = task, cameras
        self._sentences, self._image_size = wordings[task][wording], image_size
        self._renderer: Renderer | None = None
        self._instruction, self._success = "", False

    def reset(self, seed: int, anywhere: bool = False) -> None:
        self._success = False
        self._start(seed)
        if anywhere:
            self._wander(seed)
        rng = np.random.default_rng([seed, zlib.crc32(f"instruction/{self.task}".encode())])
        self._instruction = self._sentences[rng.integers(len(self._sentences))].format(**self._words())

    @property
    def instruction(self) -> str:
        return self._instruction

    @property
    def success(self) -> bool:
        return self._success

    def step(self, action: np.ndarray) -> None:
        self._success |= self._advance(checked_action(action, self.action_names, self.embodiment))

    def plan(self) -> np.ndarray:
        return np.zeros(0, np.float32)

    def observe(self) -> Sight:
        model, data = self._world()
        if not self.cameras:
            return Sight({}, self._proprio().astype(np.float32))
        if self._renderer is None:
            self._renderer = Renderer(model, self._image_size)
        images = {name: self._renderer.picture(data, self._camera(name)) for name in self.cameras}
        return Sight(images, self._proprio().astype(np.float32))

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    @abc.abstractmethod
    def _start(self, seed: int) -> None:
        """Begin the episode of `seed`, whatever went on before."""

    @abc.abstractmethod
    def _advance(self, action: np.ndarray) -> bool:
        """One control step; whether the package calls the task done after it."""

    @abc.abstractmethod
    def _proprio(self) -> np.ndarray: ...

    @abc.abstractmethod
    def _world(self) -> tuple[mujoco.MjModel, mujoco.MjData]: ...

    @abc.abstractmethod
    def _camera(self, name: str) -> mujoco.MjvCamera:
        """What draws the pictures of that name, upright."""

    @abc.abstractmethod
    def expert(self) -> np.ndarray: ...

    def _wander(self, seed: int) -> None:
        """Some steps of a smooth random walk."""
        walk = Disturbance(seed, 1.0, len(self.action_names))
        for _ in range(np.random.default_rng([seed, 2]).integers(WANDER + 1)):
            self._advance(np.clip(walk.next(), -1, 1))

    def _words(self) -> dict[str, str]:
        """What the sentences' placeholders stand for in the running episode."""
        return {}
