"""Acting while the next chunk is still being computed: the queue of actions, and policies that go on from it.

The delay of a chunk is the number of actions that were carried out between its observation and its arrival. It is
counted here, not estimated from latencies, so a chunk never goes on from another place than the robot is in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from data.transforms import Sample
from model.heads.chunks import guide_of, predicted_chunks
from model.heads.local_decoder import Guide
from model.heads.real_time import Running, sample_after, sample_guided
from serving.acting import noise_of
from serving.background import Background
from serving.observing import Observation
from serving.policy import Actor, Policy
from train.checkpoint import Checkpoint

Method = Literal["guided", "prefix"]
SAMPLERS = {"guided": sample_guided, "prefix": sample_after}


class ChunkQueue:
    """The running chunk of one robot, by control steps.

    step: control steps taken so far. delays: of every chunk that arrived. starved: steps for which there was no action.
    """

    def __init__(self):
        self.step, self.starved = 0, 0
        self.delays: list[int] = []
        self._chunk_Ca: np.ndarray | None = None
        self._first = 0  # control step of the chunk's first action

    def running(self) -> np.ndarray | None:
        """float32[n,a]: what is left of the running chunk, the next action first; None where nothing is."""
        if self._chunk_Ca is None:
            return None
        left_na = self._chunk_Ca[self.step - self._first :]
        return left_na if len(left_na) else None

    def put(self, chunk_Ca: np.ndarray, asked: int) -> bool:
        """Go on with a chunk whose observation was made before control step `asked`; what it had for the steps since is
        left out. False where all of it is in the past, and the running chunk stays.
        """
        if not 0 <= asked <= self.step:
            raise ValueError(f"asked is control step {asked}; it must lie in 0..{self.step}, the steps taken so far")
        self.delays.append(self.step - asked)
        if len(chunk_Ca) <= self.step - asked:
            return False
        self._chunk_Ca, self._first = chunk_Ca, asked
        return True

    def next(self, hold: np.ndarray) -> np.ndarray:
        """The action of this control step, float32[a]; `hold`, which keeps the robot where it is, where there is
        none."""
        running = self.running()
        self.step += 1
        if running is None:
            self.starved += 1
            return hold
        return running[0]


class RealTimeController:
    """One robot under a running clock: `act` at every control step, while the next chunk is computed on a thread of its
    own. A new one begins as soon as the last has arrived. Close it to end its thread.
    """

    def __init__(self, policy: Actor):
        self.queue = ChunkQueue()
        self._policy = Background[Observation, np.ndarray](lambda observation: policy.act([observation])[0])

    def act(self, observation: Observation, hold: np.ndarray) -> np.ndarray:
        """float32[a]: the action of now, or `hold` where there is none. Raises what the policy raised for an earlier
        observation."""
        if (answer := self._policy.answer()) is not None:
            asked, chunk_Ca = answer
            self.queue.put(chunk_Ca, asked)
        if not self._policy.busy:
            self._policy.ask(self.queue.step, dataclasses.replace(observation, running=self.queue.running()))
        return self.queue.next(hold)

    def close(self) -> None:
        self._policy.close()


class RealTimePolicy(Policy):
    """A policy whose chunks go on from `Observation.running`.

    method: "guided" steers any flow-matching head; "prefix" needs one that was trained with clean prefixes
    (`flow.prefix` of its model); None draws every chunk for itself. delay: actions of the running chunk that will
    have been carried out when the new one arrives, the most that `ChunkQueue.delays` have shown. An observation without
    a running chunk gets the ordinary one. Raises ValueError for a head or a delay that this cannot be done with.
    """

    def __init__(self, checkpoint: Checkpoint, *, delay: int = 0, method: Method | None = "guided", **options: Any):
        super().__init__(checkpoint, **options)
        self.delay, self.method = delay, method
        if method not in (None, *get_args(Method)):
            raise ValueError(f"method is {method!r}; choose one of {', '.join(get_args(Method))}, or None")
        if method is not None and self.head != "flow":
            raise ValueError(f"{checkpoint.path} acts by {self.head}; real-time chunking needs a flow-matching head")
        most, why = self.observer.rows.shape.chunk - 1, "one less than a chunk"
        if method == "prefix":
            assert self.model.config.flow is not None
            most, why = self.model.config.flow.prefix, "flow.prefix of its model"
        if method is not None and not 0 <= delay <= most:
            raise ValueError(f"delay is {delay} actions; it must be 0 .. {most} ({why})")
        self._goes_on = jax.jit(self._continued)

    def _act(self, observations: Sequence[Observation], numbers: Sequence[int]) -> list[np.ndarray]:
        samples, guide = self._look(observations, numbers)
        actions_BCA = np.asarray(guide.chunk_BKCA)[:, 0]
        return [self.observer.in_units(*each) for each in zip(samples, observations, actions_BCA, strict=False)]

    def _look(self, observations: Sequence[Observation], numbers: Sequence[int]) -> tuple[list[Sample], Guide]:
        """Transformed samples, and what one pass of the backbone finds for them in rows up to `batch_size`."""
        samples, batch = self.observer.observe(observations, self.batch_size)
        number_B = np.zeros(self.batch_size, np.uint32)
        number_B[: len(numbers)] = numbers
        weights = self.model.params, self.model.buffers
        return samples, self._goes_on(*weights, batch, number_B, self._running(observations))

    def _running(self, observations: Sequence[Observation]) -> Running:
        """What is left of each robot's chunk, as its transforms make actions predicted from the new observation."""
        shape, size = self.observer.rows.shape, self.batch_size
        action_BKCA, count_BK = np.zeros((size, 1, shape.chunk, shape.width), np.float32), np.zeros((size, 1), np.int32)
        for i, observation in enumerate(observations):
            if observation.running is not None:
                sample = {"proprio": observation.proprio, "actions": observation.running[: shape.chunk]}
                left_na = self.observer.transforms[observation.embodiment](sample)["actions"]
                action_BKCA[i, 0, : len(left_na), : left_na.shape[1]] = left_na
                count_BK[i] = len(left_na)
        return Running(*map(jnp.asarray, (action_BKCA, count_BK, np.minimum(self.delay, count_BK))))

    def _continued(self, params: Any, buffers: Any, batch: Any, number_B: jax.Array, running: Running) -> Guide:
        assert self.head != "tokens"
        batch, model = self._plan(params, buffers, batch), self.model.module(params, buffers)
        output, values = model(batch, want_keys_values=self.head == "flow"), batch.values
        noise_BKCA = noise_of(self._key, number_B, values["action"].shape[1:]) * values["action_mask"]
        if self.method is None:
            return guide_of(output, values, predicted_chunks(model, output, values, self.head, noise_BKCA))
        prefix, embodiment_BK = model.action_prefix(output, values), values["embodiment"]
        return guide_of(output, values, SAMPLERS[self.method](model.flow, noise_BKCA, embodiment_BK, prefix, running))
