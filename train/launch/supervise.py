"""Starts the ranks of a run again when one of them is lost, until the run is done or comes no further.

JAX cannot go on without a process that it began with, so all ranks end and start anew, from the last checkpoint and
with a port of their own. What happened is kept in `<workdir>/restarts.jsonl`.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from train.ranks import ENDING, RETRY, Board, End, Note, exit_in_words

CONSEQUENCES = (-signal.SIGABRT, RETRY)  # codes of processes that end as another one is lost
QUIET_SECONDS = 6.0  # without a new note, as a watchdog writes one a second: suspicious
SILENT_SECONDS = 45.0  # the same: the process is stopped
UNHEARD_SECONDS = 600.0  # without any note, or after the last one: it does not even begin, or does not end


class Ranks(Protocol):
    """Processes that can be started again, such as `train.launch.local.Processes`."""

    count: int

    def start(self) -> None: ...
    def poll(self) -> list[int | None]: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class RestartPolicy:
    """When to start again.

    restarts: in a row that bring no new checkpoint, after which the run is given up. wait_seconds: before the first of
    these; each of the next waits twice as long, up to `longest_wait_seconds`. grace_seconds: that ranks have to leave
    after one of them is lost, and write their stacks, before they are killed.
    """

    restarts: int = 5
    wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0
    grace_seconds: float = 15.0

    def __post_init__(self):
        if self.restarts < 0:
            raise ValueError(f"restarts is {self.restarts}; it must be 0 (start once) or more")
        if not 0 <= self.wait_seconds <= self.longest_wait_seconds:
            raise ValueError(
                f"wait_seconds is {self.wait_seconds}; it must be 0 .. longest_wait_seconds {self.longest_wait_seconds}"
            )
        if self.grace_seconds <= 0:
            raise ValueError(f"grace_seconds is {self.grace_seconds}; it must be above 0, for the ranks to end in")

    def wait(self, fruitless: int) -> float:
        """Seconds before the restart after so many that brought no new checkpoint."""
        return min(self.wait_seconds * 2**fruitless, self.longest_wait_seconds)


class Supervisor:
    """One run under supervision; call `poll` a few times a second. Nothing of an earlier start may run.

    say: is given a line for the user at every loss and restart.
    """

    def __init__(
        self, ranks: Ranks, workdir: str | Path, policy: RestartPolicy | None = None, say: Callable[[str], None] = print
    ):
        self._ranks, self._workdir, self._policy, self._say = ranks, Path(workdir), policy or RestartPolicy(), say
        self.board = Board(workdir)
        self.starts = 0
        self._best, self._fruitless = reached(self._workdir), 0
        self._stopping = False
        self._waiting_until: float | None = None
        self._start()

    def stop(self) -> None:
        """Asks all ranks to save and to end; `poll` returns 75 when they have."""
        self._stopping = True
        self._ranks.terminate()

    def poll(self) -> int | None:
        """None while the run goes on; then 0 done, 75 asked to stop, or 1 failed."""
        if self._waiting_until is not None:
            if self._stopping:
                return RETRY
            if time.monotonic() < self._waiting_until:
                return None
            self._start()
        codes = self._ranks.poll()
        if self._lost is None and not self._stopping:
            self._lost = self._find_lost(codes)
            if self._lost is not None:
                self._say(self._lost)
                self._kill_at = time.monotonic() + self._policy.grace_seconds
                for attempt in {note.attempt for note in self._notes.values()}:
                    self.board.end(End(attempt, self._lost, RETRY))
        if None not in codes:
            return self._ended([code for code in codes if code is not None])
        if self._lost is not None and time.monotonic() > self._kill_at:
            self._killed = {rank for rank, code in enumerate(codes) if code is None}
            self._ranks.kill()
        return None

    def _start(self) -> None:
        self._waiting_until, self._lost, self._notes = None, None, {}
        self._killed: set[int] = set()  # by us, as they did not leave
        self._seen: dict[int, tuple[int, float]] = {}  # by rank: tick of its note, and when it was new
        self._began = self._looked = time.monotonic()
        self.board.clear()
        self._ranks.start()
        self.starts += 1

    def _find_lost(self, codes: list[int | None]) -> str | None:
        """The first rank found to be lost and what it did, in words."""
        now, failed = time.monotonic(), [rank for rank, code in enumerate(codes) if code]
        if not failed and now < self._looked + 1:
            return None
        self._looked, self._notes = now, self.board.notes()
        for rank, note in self._notes.items():
            if self._seen.get(rank, (None, 0.0))[0] != note.tick:
                self._seen[rank] = note.tick, now
        heard = {
            rank: self._seen[rank][1]
            for rank, note in self._notes.items()
            if rank < len(codes) and codes[rank] is None and note.doing != ENDING
        }
        if failed:
            first = min(failed, key=lambda rank: (codes[rank] in CONSEQUENCES, rank))
            told = f"rank {first} {exit_in_words(codes[first] or 0)}{_at(self._notes.get(first))}"
            silent = [self._silent(rank, now - since) for rank, since in heard.items() if now > since + QUIET_SECONDS]
            return "; ".join([*silent, told] if codes[first] in CONSEQUENCES else [told])
        for rank in (rank for rank, code in enumerate(codes) if code is None):
            last, limit = (heard[rank], SILENT_SECONDS) if rank in heard else (self._began, UNHEARD_SECONDS)
            if now > last + limit:
                return self._silent(rank, now - last)
        return None

    def _silent(self, rank: int, seconds: float) -> str:
        return f"rank {rank} does not answer since {seconds:.0f} s{_at(self._notes.get(rank))}"

    def _ended(self, codes: list[int]) -> int | None:
        """All ranks have ended: the exit code of the run, or None where it is started again."""
        if not any(codes):
            return 0
        told = ", ".join(f"rank {rank} {exit_in_words(code)}" for rank, code in enumerate(codes))
        own = [code for rank, code in enumerate(codes) if rank not in self._killed]
        # A process that was ended by a signal makes the others fail in ways that no restart would meet again.
        if any(code not in (0, RETRY) for code in own) and min(own) >= 0:
            self._say(f"{told}; not started again")
            return 1
        if self._stopping:
            return RETRY
        now_reached = reached(self._workdir)
        self._fruitless = 0 if now_reached > self._best else self._fruitless + 1
        self._best = max(self._best, now_reached)
        if self._fruitless > self._policy.restarts:
            self._say(f"{told}; given up after {self._policy.restarts} restarts without a new checkpoint")
            return 1
        wait = self._policy.wait(max(self._fruitless - 1, 0))
        self._say(f"{told}; all start again in {wait:.0f} s from {now_reached}")
        event = {"time": time.time(), "start": self.starts, "codes": codes, "lost": self._lost or told}
        with (self._workdir / "restarts.jsonl").open("a") as log:
            log.write(json.dumps(event) + "\n")
        self._waiting_until = time.monotonic() + wait
        return None


def supervise(
    ranks: Ranks, workdir: str | Path, policy: RestartPolicy | None = None, say: Callable[[str], None] = print
) -> int:
    """Runs to the end; the exit code as of `Supervisor.poll`. SIGTERM and SIGINT ask the ranks to save and to end."""
    supervisor = Supervisor(ranks, workdir, policy, say)
    previous = {s: signal.signal(s, lambda *_: supervisor.stop()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        while (code := supervisor.poll()) is None:
            time.sleep(0.2)
        return code
    finally:
        ranks.kill()
        for number, handler in previous.items():
            signal.signal(number, handler)


@dataclasses.dataclass(frozen=True, order=True)
class Reached:
    """How far a run has come, by what is on disk."""

    phases: int  # finished
    step: int  # of the newest checkpoint of those that are not

    def __str__(self) -> str:
        return f"step {self.step}" if self.step else "the beginning of a phase"


def reached(workdir: str | Path) -> Reached:
    phases = [path for path in Path(workdir).glob("*/checkpoints") if path.is_dir()]
    open_phases = [path for path in phases if not (path.parent / "done.json").is_file()]
    steps = [step for path in open_phases for step in finished_steps(path.parent)]
    return Reached(len(phases) - len(open_phases), max(steps, default=0))


def finished_steps(phase: Path) -> list[int]:
    """Steps of the finished checkpoints in the folder of a phase."""
    return [int(path.name) for path in (phase / "checkpoints").glob("*") if path.name.isdigit()]


def _at(note: Note | None) -> str:
    return (
        "" if note is None else f"; it was at {note.place} for {note.seconds:.0f} s ({note.host}, process {note.pid})"
    )
