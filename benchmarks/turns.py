"""Two programs that take turns on the same cores, so that both meet the same noise and only their ratio counts."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

PAUSE = 1.0  # seconds between turns: threads of the one before may go on spinning for a while


class Worker:
    """A process that says one JSON line when it is ready, and one for each line that it is sent."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None):
        self.name = " ".join(command[:4])
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        )
        self.ready: dict[str, Any] = self._answer()

    def ask(self, request: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print too
                return json.loads(line)
        raise RuntimeError(f"{self.name} ended with code {self._process.wait()} instead of an answer")


def take_turns(workers: Mapping[str, Worker], request: str, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """The answers of every worker to `rounds` equal requests, one worker at a time, in turn."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            time.sleep(PAUSE)
            answers[name].append(worker.ask(request))
    return answers


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times as long `theirs` takes, the median over rounds."""
    return statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
