"""A backbone that answers late and a local decoder that acts at every control step (Gemini Robotics, arXiv 2503.20020).

The backbone looks a few times a second, wherever it runs, and each look leaves a `Look` behind. The decoder turns the
latest one and what the robot feels now into the action of now.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from data.episodes import with_proprio
from data.transforms import Sample
from model.heads.local_decoder import Guide
from serving.background import Background
from serving.observing import Observation
from serving.real_time import Method, RealTimePolicy
from train.checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True)
class Look:
    """What one look of the backbone leaves behind for one robot.

    guide: arrays without their first axis. observation, sample: what was seen and what the transforms made of it, both
    without images. chunk_Ca: the predicted chunk in the robot's units.
    """

    guide: Guide
    observation: Observation
    sample: Sample
    chunk_Ca: np.ndarray


class SplitPolicy(RealTimePolicy):
    """Both halves of a model with a local decoder, to be called at rates of their own.

    Chunks go on from `Observation.running` if a `method` of real-time chunking is given; `running_of` says what to put
    there. `steps`: control steps that one action of a chunk lasts.
    """

    def __init__(self, checkpoint: Checkpoint, *, delay: int = 0, method: Method | None = None, **options: Any):
        super().__init__(checkpoint, delay=delay, method=method, **options)
        if self.model.config.local_decoder is None:
            raise ValueError(
                f"{checkpoint.path} is of phase {checkpoint.phase!r}, whose model has no local decoder; give a phase "
                "that was trained with objective 'local_decoder'"
            )
        self.steps = self.model.config.local_decoder.steps
        self._decoded = jax.jit(self._decode)

    def look(self, observations: Sequence[Observation]) -> list[Look]:
        """The backbone's part. Raises ValueError as `Policy.act` does."""
        numbers = [self._number(observation) for observation in observations]
        looks: list[Look] = []
        for start in range(0, len(observations), self.batch_size):
            part = slice(start, start + self.batch_size)
            samples, guides = self._look(observations[part], numbers[part])
            guides = jax.device_get(guides)
            for i, (sample, observation) in enumerate(zip(samples, observations[part], strict=True)):
                guide = jax.tree.map(lambda x, i=i: x[i], guides)
                chunk_Ca = self.observer.in_units(sample, observation, guide.chunk_BKCA[0])
                bare = dataclasses.replace(observation, images=(), running=None)
                looks.append(Look(guide, bare, sample | {"images": ()}, chunk_Ca))
        return looks

    def decode(self, looks: Sequence[Look], proprios: Sequence[np.ndarray], delays: Sequence[int]) -> list[np.ndarray]:
        """The decoder's part: float32[a] for each robot, its action of now in its units.

        proprios: what the robots feel now, raw. delays: control steps since their looks, from 0.
        """
        actions: list[np.ndarray] = []
        for start in range(0, len(looks), self.batch_size):
            part = slice(start, start + self.batch_size)
            actions += self._decode_rows(looks[part], proprios[part], delays[part])
        return actions

    def running_of(self, look: Look, delay: int) -> np.ndarray | None:
        """What is left of a look's chunk after so many control steps, for `Observation.running`; None where nothing is.

        Raises ValueError where a chunk asked for now would not keep step with it.
        """
        if delay % self.steps:
            raise ValueError(f"delay is {delay} control steps; ask after a multiple of {self.steps}, one chunk step")
        left_na = look.chunk_Ca[delay // self.steps :]
        return left_na if len(left_na) else None

    def _decode_rows(self, looks: Sequence[Look], proprios: Sequence[np.ndarray], delays: Sequence[int]):
        width = self.observer.rows.shape.width
        proprio_BKNA = np.zeros((self.batch_size, 1, 1, width), np.float32)
        delay_BKN = np.zeros((self.batch_size, 1, 1), np.int32)
        for i, (look, proprio, delay) in enumerate(zip(looks, proprios, delays, strict=True)):
            transform = self.observer.transforms[look.observation.embodiment]
            felt = transform({"proprio": np.asarray(proprio, np.float32)})["proprio"]
            vector = np.asarray(look.guide.proprio_BKA)[0, : self.observer.rows.plan_length + len(felt)]
            proprio_BKNA[i, 0, 0, : len(vector)] = with_proprio(vector, felt)
            delay_BKN[i] = delay
        rows = [look.guide for look in looks] + [looks[0].guide] * (self.batch_size - len(looks))
        guide = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        found = np.asarray(self._decoded(self.model.params, self.model.buffers, guide, delay_BKN, proprio_BKNA))
        in_units = self.observer.in_units
        return [in_units(look.sample, look.observation, found[i, 0])[0] for i, look in enumerate(looks)]

    def _decode(self, params: Any, buffers: Any, guide: Guide, delay_BKN: jax.Array, proprio_BKNA: jax.Array):
        return self.model.module(params, buffers).local_decoder(guide, delay_BKN, proprio_BKNA)


class SplitController:
    """One robot under a running clock: `act` at every control step, while the backbone looks on a thread of its own.

    A new look begins as soon as the last one has arrived and the running chunk is at a whole step. The first `act`
    waits for the first look. delays: control steps that each look took. Close it to end its thread.
    """

    def __init__(self, policy: SplitPolicy, look: Callable[[Observation], Look] | None = None):
        self.policy = policy
        self.delays: list[int] = []
        self._backbone = Background(look or (lambda observation: policy.look([observation])[0]))
        self._step = self._seen = 0  # now, and when the look that guides was made
        self._look: Look | None = None

    def act(self, observation: Observation) -> np.ndarray:
        """float32[a]: the action of now. Raises what the backbone raised for an earlier observation."""
        self._arrive()
        age = self._step - self._seen
        if not self._backbone.busy and age % self.policy.steps == 0:
            running = None if self._look is None else self.policy.running_of(self._look, age)
            self._backbone.ask(self._step, dataclasses.replace(observation, running=running))
        if self._look is None:
            self._arrive(wait=True)
        assert self._look is not None
        action = self.policy.decode([self._look], [observation.proprio], [self._step - self._seen])[0]
        self._step += 1
        return action

    def _arrive(self, *, wait: bool = False) -> None:
        if (answer := self._backbone.answer(wait=wait)) is not None:
            self._seen, self._look = answer
            self.delays.append(self._step - self._seen)

    def close(self) -> None:
        self._backbone.close()
