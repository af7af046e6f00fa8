"""Adds up where the time of a run went, and which of its processes the others had to wait for."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CATEGORIES = {
    "productive": "steps whose result is in the run",
    "data wait": "devices had nothing to do",
    "compile": "",
    "evaluation": "",
    "checkpoint": "what steps waited for it",
    "check": "comparing copies",
    "start-up": "the first start, until the first step",
    "restart": "from the last sign of a process until its successor trains",
    "lost work": "done again after a restart",
    "other": "",
}
_LINES = {"compile": "compile", "evaluation": "evaluation", "checkpoint": "checkpoint", "check": "check"}


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What one process told of one phase, from a start to its end or to its death."""

    lines: Sequence[dict[str, Any]]

    @property
    def begin(self) -> float:
        return self.lines[0]["time"] - self.lines[0]["seconds"]

    @property
    def end(self) -> float:
        return self.lines[-1]["time"]

    @property
    def step(self) -> int | None:
        """After which it went on; None where it died before it knew."""
        return next((line["step"] for line in self.lines if line["kind"] == "state"), None)

    @property
    def why(self) -> str:
        last = self.lines[-1]
        return last.get("error", "finished") if last["kind"] == "end" else "killed"


@dataclasses.dataclass(frozen=True)
class Account:
    """seconds: by category, in all the time from the first start to the last end. starts: of each attempt (moment,
    step it went on after, why it ended). curve: (moment, step) at the end of each stretch of steps, by attempt."""

    phase: str
    seconds: dict[str, float]
    starts: list[dict[str, Any]]
    ranks: list[dict[str, Any]]
    curve: list[list[tuple[float, int]]]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        return self.seconds["productive"] / self.total if self.total else 0.0


def accounts(run: Path) -> list[Account]:
    """One for each phase, in the order in which they began. Raises ValueError for a folder without any events."""
    folders = [run] if (run / "events").is_dir() else sorted(path.parent for path in run.glob("*/events"))
    found = [account(folder) for folder in folders]
    if not found:
        raise ValueError(
            f"{run} holds no <phase>/events; give the --workdir of a run of `python -m train`, or one of its phases"
        )
    return sorted(found, key=lambda a: a.starts[0]["time"])


def account(folder: Path) -> Account:
    """Of one phase. The time is that of rank 0, whose steps are everybody's."""
    ranks = {int(path.stem): attempts_of(path) for path in (folder / "events").glob("*.jsonl")}
    attempts = ranks.get(0, [])
    if not attempts:
        raise ValueError(f"{folder / 'events' / '0.jsonl'} holds no start; the run wrote nothing yet, or lost the file")
    seconds = dict.fromkeys(CATEGORIES, 0.0)
    for number, attempt in enumerate(attempts):
        later = [other.step for other in attempts[number + 1 :] if other.step is not None]
        _add(seconds, attempt, first=number == 0, kept=later[0] if later else None)
        if number:
            seconds["restart"] += attempt.begin - attempts[number - 1].end
    return Account(
        phase=folder.name,
        seconds=seconds,
        starts=[{"time": a.begin, "step": a.step, "why it ended": a.why} for a in attempts],
        ranks=[_rank(rank, found) for rank, found in sorted(ranks.items())],
        curve=[[(ln["time"], ln["last"]) for ln in a.lines if ln["kind"] == "steps"] for a in attempts],
    )


def attempts_of(path: Path) -> list[Attempt]:
    """The starts in one process's file. A line that a kill cut off is left out."""
    found: list[list[dict[str, Any]]] = []
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if line["kind"] == "start":
            found.append([])
        if found:
            found[-1].append(line)
    return [Attempt(lines) for lines in found]


def _add(seconds: dict[str, float], attempt: Attempt, *, first: bool, kept: int | None) -> None:
    """Adds what one attempt did. kept: the step that the next one went on after; what came later is lost."""
    for line in attempt.lines:
        kind, spent = line["kind"], line["seconds"]
        if kind in ("start", "state"):
            seconds["start-up" if first else "restart"] += spent
        elif kind == "steps":
            count = line["last"] - line["first"] + 1
            lost = 0.0 if kept is None else min(max(line["last"] - kept, 0), count) / count
            seconds["lost work"] += spent * lost
            seconds["data wait"] += line["data"] * (1 - lost)
            seconds["productive"] += (spent - line["data"]) * (1 - lost)
        elif kind in ("checkpoint", "evaluation", "check") and kept is not None and line["step"] > kept:
            seconds["lost work"] += spent
        else:
            seconds[_LINES.get(kind, "other")] += spent


def _rank(rank: int, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Milliseconds a step of one process, by what it did. Those that work least for themselves wait for the others."""
    lines = [line for attempt in attempts for line in attempt.lines if line["kind"] == "steps"]
    steps = sum(line["last"] - line["first"] + 1 for line in lines)
    per_step = lambda name: 1000 * sum(line[name] for line in lines) / max(steps, 1)  # noqa: E731
    return {
        "rank": rank,
        "steps": steps,
        "step_ms": per_step("seconds"),
        "data_ms": per_step("data"),
        "blocked_ms": per_step("blocked"),
        "own_ms": per_step("seconds") - per_step("blocked"),
    }


def stragglers(ranks: Sequence[dict[str, Any]], share: float = 0.1) -> list[int]:
    """Ranks whose own work takes longer than the median rank's, by more than `share` of a step.

    Own work is all but waiting for devices: reading data, preparing batches, whatever the host does. In lockstep it is
    the others' waiting. A slow device shows as blocked time of every rank and is not told apart.
    """
    if len(ranks) < 2:
        return []
    usual = statistics.median_low(rank["own_ms"] for rank in ranks)
    return [rank["rank"] for rank in ranks if rank["own_ms"] - usual > share * rank["step_ms"] > 0]
