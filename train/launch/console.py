"""The logs of all ranks as one stream, each line with its rank before it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

_FILE = re.compile(r"rank_(\d+)\.log")
_NOISE = "[Gloo] Rank "  # printed by every virtual device on every connection; the rank's own file has it


class Console:
    """Follows `rank_<rank>.log` files in a folder, those that appear later too, and `write`s complete lines.

    from_now: leave out what the files hold already.
    """

    def __init__(self, folder: Path, write: Callable[[str], None] = print, *, from_now: bool = False):
        self._folder, self._write = Path(folder), write
        self._read: dict[Path, int] = {}  # bytes shown
        if from_now:
            self._read = {path: path.stat().st_size for path in self._folder.glob("rank_*.log")}

    def poll(self) -> None:
        """Writes the lines that are new, rank after rank."""
        found = [(int(match[1]), path) for path in self._folder.glob("rank_*.log") if (match := _FILE.match(path.name))]
        width = len(str(max((rank for rank, _ in found), default=0)))
        for rank, path in sorted(found):
            for line in self._new_lines(path):
                if not line.startswith(_NOISE):
                    self._write(f"{rank:{width}}| {line}")

    def _new_lines(self, path: Path) -> list[str]:
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read[path] = self._read.get(path, 0) + len(whole)
        return whole.decode(errors="replace").splitlines()


class Following:
    """A console in a thread of its own, for as long as the block runs; all lines are out at its end."""

    def __init__(self, console: Console, seconds: float = 0.2):
        self._console, self._seconds, self._done = console, seconds, threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._console.poll()

    def _follow(self) -> None:
        while not self._done.wait(self._seconds):
            self._console.poll()
