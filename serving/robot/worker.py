"""One thread runs the policy for all clients, as many observations at once as have come."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from serving.policy import Actor, Observation


@dataclasses.dataclass(frozen=True)
class Answer:
    """actions: float32[C,a]. seconds: what the policy took for all that it answered together."""

    actions: np.ndarray
    seconds: float


class Worker:
    """Batches observations of many clients; the event loop stays free.

    max_batch: observations given to the policy at once. Requests that come meanwhile wait for the next round, so a
    lone client never waits for others.
    """

    def __init__(self, policy: Actor, max_batch: int):
        self.policy, self.max_batch = policy, max_batch
        self._waiting: asyncio.Queue[tuple[Observation, asyncio.Future[Answer]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._task: asyncio.Task | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends the rounds; who still waits gets a cancellation."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while not self._waiting.empty():
            self._waiting.get_nowait()[1].cancel()
        self._thread.shutdown(wait=True, cancel_futures=True)

    @property
    def num_waiting(self) -> int:
        """Requests that the policy has not been given yet."""
        return self._waiting.qsize()

    async def act(self, observation: Observation) -> Answer:
        """Raises what the policy raises for this observation."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((observation, answer))
        return await answer

    async def _run(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self.max_batch and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            asked = [(observation, answer) for observation, answer in batch if not answer.done()]
            if asked:
                await self._round(asked)

    async def _round(self, asked: list[tuple[Observation, asyncio.Future[Answer]]]) -> None:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._thread, self._answers, [observation for observation, _ in asked])
        for (_, answer), result in zip(asked, found, strict=True):
            if answer.done():  # its client has gone
                continue
            if isinstance(result, Answer):
                answer.set_result(result)
            else:
                answer.set_exception(result)

    def _answers(self, observations: list[Observation]) -> list[Answer | Exception]:
        """One observation that the policy refuses spoils no other's."""
        start = time.perf_counter()
        try:
            chunks = self.policy.act(observations)
        except Exception as error:
            if len(observations) == 1:
                return [error]
            return [answer for observation in observations for answer in self._answers([observation])]
        seconds = time.perf_counter() - start
        return [Answer(chunk, seconds) for chunk in chunks]
