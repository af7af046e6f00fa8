"""What the processes of a run tell of themselves, in files beside it: `<workdir>/ranks/`.

`<rank>.json` is a note, written anew every second or so by a thread of that process: what its main thread does and for
how long. It stops changing when the process is stopped or killed; it goes on, and says so, where the process hangs.
`end.json` asks all of them to give up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

from data.whole import write_whole

RETRY = os.EX_TEMPFAIL  # 75, the exit code of a process whose command may go on from what is saved
ENDING = "the end"  # what a process is at when it writes its last note


@dataclasses.dataclass(frozen=True)
class Note:
    """What one process tells.

    attempt: the same for all processes that were started together. doing: what the main thread is at, since `seconds`;
    it is overdue after `limit` of them. stage: how many such things it has begun. step: the last step it has begun.
    tick: how often this note was written.
    """

    rank: int
    host: str
    pid: int
    attempt: int
    doing: str
    step: int
    stage: int
    seconds: float
    limit: float
    tick: int

    @property
    def place(self) -> str:
        return f"{self.doing} of step {self.step}" if self.step else self.doing

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, process {self.pid}) at {self.place} for {self.seconds:.0f} s"


@dataclasses.dataclass(frozen=True)
class End:
    """Why the processes of an attempt are to give up, and with which exit code."""

    attempt: int
    why: str
    code: int


class Board:
    """The folder in which the processes of a run leave their notes. A missing or unreadable file counts as no note."""

    def __init__(self, workdir: str | Path):
        self.folder = Path(workdir) / "ranks"

    def clear(self) -> None:
        """Forgets processes that have ended."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, note: Note) -> None:
        write_whole(self.folder / f"{note.rank}.json", json.dumps(dataclasses.asdict(note)))

    def notes(self, attempt: int | None = None) -> dict[int, Note]:
        """Notes by rank; of one attempt, or the last of each rank."""
        found = {}
        for path in self.folder.glob("[0-9]*.json"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                note = Note(**json.loads(path.read_text()))
                if attempt in (None, note.attempt):
                    found[note.rank] = note
        return dict(sorted(found.items()))

    def end(self, end: End) -> None:
        """Asks the processes of an attempt to give up; whoever asks first is heard."""
        if self.ended(end.attempt) is None:
            write_whole(self.folder / "end.json", json.dumps(dataclasses.asdict(end)))

    def ended(self, attempt: int) -> End | None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            end = End(**json.loads((self.folder / "end.json").read_text()))
            return end if end.attempt == attempt else None
        return None

    def stacks(self, rank: int) -> Path:
        """Where the process writes its stacks when it gives up."""
        return self.folder / f"stacks_{rank}.txt"


def suspects(before: dict[int, Note], now: dict[int, Note], count: int) -> str:
    """Whom ranks 0 .. count - 1 wait for, in words: those that wrote no note meanwhile, else those that have come the
    least far."""
    silent = [rank for rank in range(count) if now.get(rank) == before.get(rank)]
    if silent:
        last = (f"{now[rank]} and does not answer" if rank in now else f"rank {rank}, not heard of" for rank in silent)
        return "; ".join(last)
    least = min(note.stage for note in now.values())
    return "; ".join(str(note) for note in now.values() if note.stage == least)


def exit_in_words(code: int) -> str:
    """An exit code as `subprocess` gives it."""
    if code < 0 or 128 < code <= 128 + signal.NSIG:
        number = -code if code < 0 else code - 128
        name = next((s.name for s in signal.Signals if s == number), f"signal {number}")
        return f"ended by {name}"
    return {0: "done", RETRY: f"gave up, to be started again ({code})"}.get(code, f"failed ({code})")
