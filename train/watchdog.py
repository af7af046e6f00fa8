"""Ends a process whose main thread comes no further, for whatever reason, so that the run can be started again.

JAX itself notices a peer that is dead or stopped, by heartbeats of a C++ thread. It does not notice one that hangs in
Python or in a collective, and when it does notice, it aborts without a word on who did what. So every process has a
thread that leaves notes (`train.ranks`), and when its own main thread is overdue, or somebody asks it to, writes the
stacks of all its threads and exits with a code that says whether the same command may go on.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from train.ranks import ENDING, RETRY, Board, End, Note, suspects

POLL = 1.0  # seconds between notes
SILENCE = 4.0  # seconds in which every process that answers has written one; a busy machine delays them
LONGER = 5  # times as long as any step before, from which on a step is overdue


class Watch(Protocol):
    """Is told what the main thread does."""

    def at(self, doing: str, step: int, *, pause: bool = False) -> None:
        """The main thread begins `doing`, which belongs to `step`. pause: something that may take long (start-up,
        compilation, evaluation, a checkpoint)."""


class Unwatched:
    """Lets everything take its time."""

    def at(self, doing: str, step: int, *, pause: bool = False) -> None:
        del doing, step, pause


class Watchdog:
    """Watches the process that makes it, from `with` on; every process of a run makes one at the same time.

    seconds: what any thing between two calls of `at` may take, or LONGER times the longest so far; None = no end.
    pause_seconds: the same for pauses. exit_code: of an error that ends one process of several; None where all meet it.

    In a run of several processes an error of one is told to the others, which would wait for it in vain, and it exits
    with its code without meeting them at JAX's own shutdown.
    """

    def __init__(
        self, workdir: Path, seconds: float | None, pause_seconds: float, exit_code: Callable[[Exception], int | None]
    ):
        self._board, self._exit_code = Board(workdir), exit_code
        self._seconds, self._pause_seconds = seconds, pause_seconds
        self._rank, self._count, self._attempt = jax.process_index(), jax.process_count(), _attempt()
        self._longest, self._tick = 0.0, 0
        self._now: tuple[str, int, int, float, bool] = ("the start", 0, 0, time.monotonic(), True)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def at(self, doing: str, step: int, *, pause: bool = False) -> None:
        _, _, stage, since, paused = self._now
        now = time.monotonic()
        if not paused:
            self._longest = max(self._longest, now - since)
        self._now = doing, step, stage + 1, now, pause

    def __enter__(self) -> Watchdog:
        with contextlib.suppress(ValueError, OSError):  # where standard error is no file
            faulthandler.enable()  # JAX aborts when the process that coordinates is gone
        self._board.stacks(self._rank).unlink(missing_ok=True)
        self._tell()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._done.set()
        self._thread.join()
        self.at(ENDING, 0, pause=True)
        self._tell()
        code = self._exit_code(error) if isinstance(error, Exception) and self._count > 1 else None
        if error is None or code is None:
            return
        with contextlib.suppress(OSError):
            self._board.end(End(self._attempt, f"rank {self._rank} ended: {type(error).__name__}: {error}", code))
            traceback.print_exception(error)
            first = self._board.ended(self._attempt)  # this error may be a consequence: of a peer that has left
            if first is not None:
                print(f"rank {self._rank} gives up: {first.why}", file=sys.stderr, flush=True)
        _exit(code)

    def _note(self) -> Note:
        doing, step, stage, since, pause = self._now
        limit = self._pause_seconds if pause else max(self._seconds or 0.0, LONGER * self._longest)
        return Note(
            rank=self._rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            attempt=self._attempt,
            doing=doing,
            step=step,
            stage=stage,
            seconds=round(time.monotonic() - since, 1),
            limit=round(limit, 1),
            tick=self._tick,
        )

    def _tell(self) -> Note:
        self._tick += 1
        note = self._note()
        with contextlib.suppress(OSError):  # a full disk is for the main thread to meet
            self._board.write(note)
        return note

    def _watch(self) -> None:
        suspicion: tuple[int, float, dict[int, Note]] | None = None  # stage, time and notes when it was overdue
        while not self._done.wait(POLL):
            note = self._tell()
            end = self._board.ended(self._attempt)
            if end is None and self._seconds is not None and note.seconds > note.limit:
                if suspicion is None or suspicion[0] != note.stage:
                    suspicion = note.stage, time.monotonic(), self._board.notes(self._attempt)
                elif time.monotonic() > suspicion[1] + SILENCE:
                    end = self._accuse(note, before=suspicion[2])
            if end is not None and not self._done.is_set():
                self._give_up(end)

    def _accuse(self, note: Note, before: dict[int, Note]) -> End:
        """Says for whom this process waits, and asks all others to give up too."""
        waiting_for = suspects(before, self._board.notes(self._attempt), self._count)
        why = f"rank {self._rank} is at {note.place} for more than {note.limit:.0f} s (config.train.watchdog_seconds)"
        end = End(self._attempt, f"{why}, waiting for {waiting_for}", RETRY)
        with contextlib.suppress(OSError):
            self._board.end(end)
        return self._board.ended(self._attempt) or end

    def _give_up(self, end: End) -> None:
        with contextlib.suppress(OSError):
            print(f"rank {self._rank} gives up: {end.why}\nits last note: {self._note()}", file=sys.stderr, flush=True)
            with self._board.stacks(self._rank).open("w") as file:
                faulthandler.dump_traceback(file)
            print(self._board.stacks(self._rank).read_text(), file=sys.stderr, flush=True)
        _exit(end.code)


def _attempt() -> int:
    """A number that all processes agree on and that no earlier start had."""
    mine = np.array(time.time_ns() // 1000 % 2**31, np.int32)
    return int(mine if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(mine))


def _exit(code: int) -> None:
    """At once: neither the main thread nor the peers can be waited for."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
