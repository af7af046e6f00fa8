"""Where the time of a process goes: one line for every stretch of it, in a file of its own.

`<phase>/events/<rank>.jsonl` is only ever appended to, over all starts of a run. Every line has the moment it ends at
(`time`, seconds since 1970), how long it took (`seconds`, since the line before) and what was done (`kind`):

    start        from the start of the process, or the end of the phase before; `pid`, `processes`
    state        parameters are made, or a checkpoint compared with its checksums and read; `step` = that of the state
    compile      the call that compiles the step
    steps        `first` to `last`: of these seconds, `data` were spent waiting for data while no device had work, and
                 `blocked` waiting for devices
    checkpoint, evaluation, check    what the loop waited for them; `step`
    end          the phase is finished, or `error` says why not

`python -m train.goodput` adds them up.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

_mark = time.time()  # until when the time of this process is accounted for


class Events:
    """The lines of this process for one phase; `folder` is the phase's, None = nobody wants to know."""

    def __init__(self, folder: Path | None):
        self._file = None
        if folder is not None:
            (folder / "events").mkdir(parents=True, exist_ok=True)
            self._file = (folder / "events" / f"{jax.process_index()}.jsonl").open("a", buffering=1)
            self._file.write("\n")  # ends a line that a kill cut off
        self._first: int | None = None  # of the steps that no line tells of yet
        self._last, self._data, self._blocked = 0, 0.0, 0.0

    def write(self, kind: str, **fields: Any) -> None:
        """The time since the last line went to `kind`."""
        global _mark
        now = time.time()
        line = {"time": round(now, 4), "kind": kind, "seconds": round(now - _mark, 4), **fields}
        _mark = now
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")

    def __enter__(self) -> Events:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.steps()
        self.write("end", **({} if error is None else {"error": f"{type(error).__name__}: {error}"[:300]}))
        if self._file is not None:
            self._file.close()

    def begin(self) -> None:
        self.write("start", pid=os.getpid(), processes=jax.process_count())

    def stepped(self, step: int) -> None:
        """Step `step` is finished, its line is still to come."""
        self._first, self._last = self._first or step, step

    def steps(self) -> None:
        """Tells of the steps since the last such line."""
        if self._first is not None:
            waits = {"data": round(self._data, 4), "blocked": round(self._blocked, 4)}
            self.write("steps", first=self._first, last=self._last, **waits)
            self._first, self._data, self._blocked = None, 0.0, 0.0

    @contextlib.contextmanager
    def of(self, kind: str, step: int):
        """What happens inside is no step."""
        self.steps()
        yield
        self.write(kind, step=step)

    @contextlib.contextmanager
    def data(self, idle: Callable[[], bool]):
        """Inside the loop waits for data; it counts where devices are `idle` when it comes."""
        start = time.perf_counter()
        yield
        if idle():
            self._data += time.perf_counter() - start

    @contextlib.contextmanager
    def blocked(self):
        """Inside the loop waits for devices."""
        start = time.perf_counter()
        yield
        self._blocked += time.perf_counter() - start
