"""The thread that runs the model: requests go in from the event loop, what they grow by comes back to it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Literal

from data.elements import Document
from data.layout import cost_of
from serving.completion import Completion, Top
from serving.slots import Request, Slots, Ticket
from serving.text.errors import ApiError

State = Literal["loading", "ready", "failed", "stopped"]
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Update:
    """What a completion has grown by; `ids`, `logprobs` and `tops` are without the token that ends the text.

    num_tokens: all that were drawn.
    """

    text: str = ""
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    tops: tuple[Top, ...] = ()
    num_tokens: int = 0
    ended: str | None = None
    error: ApiError | None = None

    def then(self, other: Update) -> Update:
        return Update(
            self.text + other.text,
            self.ids + other.ids,
            self.logprobs + other.logprobs,
            self.tops + other.tops,
            self.num_tokens + other.num_tokens,
            other.ended or self.ended,
            other.error or self.error,
        )


@dataclasses.dataclass(eq=False)
class Job:
    """One request of a call; `updates` is shared with the other choices of the call."""

    request: Request
    index: int
    updates: asyncio.Queue[tuple[int, Update]]
    ticket: Ticket | None = None  # of the worker's thread, as what follows
    text_sent: int = 0
    tokens_sent: int = 0

    def growth(self, ends: frozenset[int]) -> Update:
        """What has come since the last time."""
        completion: Completion = self.ticket.completion  # type: ignore[union-attr]
        new = slice(self.tokens_sent, None)
        ids, logprobs, tops = completion.ids[new], completion.logprobs[new], completion.tops[new]
        num_tokens, text = len(ids), completion.text[self.text_sent :]
        self.tokens_sent, self.text_sent = len(completion.ids), len(completion.text)
        if completion.ended == "stop" and ids and ids[-1] in ends:
            ids, logprobs, tops = ids[:-1], logprobs[:-1], tops[:-1]
        return Update(text, tuple(ids), tuple(logprobs), tuple(tops), num_tokens, completion.ended)


@dataclasses.dataclass
class Counts:
    """What has gone through since the start."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    completions: int = 0


class Worker:
    """Runs `slots` in a thread of its own. All methods are for the event loop."""

    def __init__(self, slots: Slots, *, max_waiting: int, examples: Sequence[Document] = ()):
        """max_waiting: requests beyond the rows that are let in. examples: see `Slots.compile`."""
        self.slots, self.capacity = slots, slots.num_rows + max_waiting
        self.state: State = "loading"
        self.counts = Counts()
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None  # called where compiling failed
        self._jobs: set[Job] = set()
        self._examples = examples
        self._commands: queue.SimpleQueue[tuple[str, Job | None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    @property
    def num_jobs(self) -> int:
        return len(self._jobs)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Ends after the block that is being drawn; whoever still waits gets an error."""
        self.state = "stopped"
        self._commands.put(("stop", None))
        await asyncio.to_thread(self._thread.join, 10)
        for job in list(self._jobs):
            self._deliver([(job, Update(error=ApiError(503, "the server is stopping")))])

    def submit(self, requests: Sequence[Request]) -> tuple[list[Job], asyncio.Queue[tuple[int, Update]]]:
        """All of them or none. Raises ApiError where the queue is full or the model is not there."""
        if self.state != "ready":
            raise ApiError(503, f"the model is {self.state}; try again later", retry_after=5)
        if len(self._jobs) + len(requests) > self.capacity:
            message = f"{len(self._jobs)} completions are under way and {self.capacity} are allowed; try again later"
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after=1)
        updates: asyncio.Queue[tuple[int, Update]] = asyncio.Queue()
        jobs = [Job(request, i, updates) for i, request in enumerate(requests)]
        for job in jobs:
            self._jobs.add(job)
            self.counts.prompt_tokens += cost_of(job.request.document).slots
            self._commands.put(("submit", job))
        return jobs, updates

    def cancel(self, job: Job) -> None:
        """Frees its row; nothing happens to one that has ended."""
        if job in self._jobs:
            self._jobs.discard(job)
            self._commands.put(("cancel", job))

    def _deliver(self, updates: Sequence[tuple[Job, Update]]) -> None:
        for job, update in updates:
            self.counts.completion_tokens += update.num_tokens
            if job in self._jobs:
                if update.ended or update.error:
                    self._jobs.discard(job)
                    self.counts.completions += update.error is None
                job.updates.put_nowait((job.index, update))

    # ---- in the thread

    def _run(self) -> None:
        try:
            self.slots.compile(self._examples)
        except BaseException as error:
            _LOG.exception("the model cannot be run")
            self._post(self._set, "failed", error)
            return
        self._post(self._set, "ready", None)
        jobs: dict[Ticket, Job] = {}
        while self._obey(jobs):
            if self.slots.busy:
                self._turn(jobs)

    def _turn(self, jobs: dict[Ticket, Job]) -> None:
        vocabulary = self.slots.decoder.vocabulary
        try:
            grown = self.slots.turn()
        except Exception:  # out of memory, a lost device: those who wait are told, whoever comes next is served
            _LOG.exception("a turn failed; %d requests are lost", self.slots.num_active + len(self.slots.waiting))
            error = Update(error=ApiError(500, "the model failed; the request is lost"))
            self._post(self._deliver, [(jobs.pop(ticket), error) for ticket in self.slots.abandon()])
            return
        updates = []
        for ticket in grown:
            job = jobs[ticket]
            updates.append((job, job.growth(job.request.ends | {vocabulary.eos_id})))
            if ticket.completion.ended is not None:
                del jobs[ticket]
        self._post(self._deliver, updates)

    def _obey(self, jobs: dict[Ticket, Job]) -> bool:
        """Takes in who comes and goes, waiting for somebody where there is nothing to do; False is the end."""
        while True:
            try:
                what, job = self._commands.get(block=not self.slots.busy)
            except queue.Empty:
                return True
            if job is None:
                return False
            if what == "submit":
                job.ticket = self.slots.submit(job.request)
                jobs[job.ticket] = job
            elif job.ticket in jobs:
                self.slots.cancel(job.ticket)
                del jobs[job.ticket]

    def _set(self, state: State, failure: BaseException | None) -> None:
        if self.state == "loading":
            self.state, self.failure = state, failure
            if failure is not None:
                self.on_failure()

    def _post(self, function, *arguments) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            _LOG.debug("the event loop is closed")
