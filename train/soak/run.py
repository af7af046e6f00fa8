"""One soak: the run left alone, the same run under faults, and the comparison."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from train.launch.local import Processes
from train.launch.supervise import RestartPolicy, Supervisor
from train.soak.compare import differences
from train.soak.faults import Fault, inflict

POLL = 0.1  # seconds


@dataclasses.dataclass
class Injected:
    """What became of a fault. Times are seconds from the moment it was inflicted."""

    fault: Fault
    what: str
    at_step: int  # that the slowest rank had begun
    noticed_after: float | None = None
    as_what: str = ""  # the supervisor's words
    restarted_after: float | None = None
    back_after: float | None = None  # until the run had come to `at_step` again


class Injector:
    """Inflicts faults on a supervised run, the next one when the run has started again after the one before."""

    def __init__(
        self, supervisor_of: Callable[[Callable[[str], None]], Supervisor], faults: Sequence[Fault], seed: int
    ):
        self.done: list[Injected] = []
        self._left, self._seed = list(faults), seed
        self.said: list[str] = []
        self.supervisor = supervisor_of(self._hear)
        self._since, self._starts = 0.0, self.supervisor.starts

    def poll(self, processes: Processes, phase: Path) -> int | None:
        """As `Supervisor.poll`."""
        code = self.supervisor.poll()
        now, last = time.monotonic(), self.done[-1] if self.done else None
        if last is not None and last.restarted_after is None:
            if self.supervisor.starts > self._starts:
                last.restarted_after = round(now - self._since, 1)
            return code
        notes = self.supervisor.board.notes()
        if code is not None or len(notes) < processes.count:
            return code
        step = min(note.step for note in notes.values())
        if last is not None and last.back_after is None and step >= last.at_step:
            last.back_after = round(now - self._since, 1)
        if self._left and step >= self._left[0].step:
            fault = self._left.pop(0)
            what = inflict(fault, processes.pids, phase, self._seed + len(self.done))
            self._since, self._starts = time.monotonic(), self.supervisor.starts
            self.done.append(Injected(fault, what, step))
            print(f"fault {len(self.done)} at step {step}: {what}", flush=True)
        return code

    def _hear(self, line: str) -> None:
        print(line, flush=True)
        last = self.done[-1] if self.done else None
        if last is not None and last.noticed_after is None:
            last.noticed_after, last.as_what = round(time.monotonic() - self._since, 1), line


def run_alone(command: Sequence[str], workdir: Path, processes: int, devices: int) -> float:
    """Seconds that it took. Raises ValueError where the run does not end well."""
    began = time.monotonic()
    with Processes([*command, f"--workdir={workdir}"], processes, workdir / "logs", devices=devices) as ranks:
        ranks.start()
        codes = ranks.wait()
        if any(codes):
            raise ValueError(f"the run fails without any fault: exit codes {codes}; see {workdir / 'logs'}")
    return time.monotonic() - began


def run_under_faults(
    command: Sequence[str], workdir: Path, phase: str, processes: int, devices: int, faults: Sequence[Fault], seed: int
) -> tuple[int, list[Injected], int]:
    """The run's exit code, what became of the faults, and how often it was started."""
    command = [*command, f"--workdir={workdir}"]
    policy = RestartPolicy(wait_seconds=0.5, grace_seconds=10)
    with Processes(command, processes, workdir / "logs", devices=devices) as ranks:
        injector = Injector(lambda say: Supervisor(ranks, workdir, policy, say), faults, seed)
        while (code := injector.poll(ranks, workdir / phase)) is None:
            time.sleep(POLL)
        return code, injector.done, injector.supervisor.starts


def report(
    code: int, reference: Path, soaked: Path, injected: Sequence[Injected], num_faults: int, longest: float
) -> dict[str, Any]:
    """What happened, and `problems`, empty where nothing was lost and everything was noticed within `longest` s."""
    problems = [] if code == 0 else [f"the run under faults ended with {code}"]
    if len(injected) < num_faults:
        problems.append(f"the run ended after {len(injected)} of {num_faults} faults; raise config.train.steps")
    for number, fault in enumerate(injected, 1):
        if fault.noticed_after is None or fault.noticed_after > longest:
            problems.append(f"fault {number} ({fault.what}) was noticed after {fault.noticed_after} s")
    if code == 0:
        problems += differences(reference, soaked)
    return {"problems": problems, "faults": [dataclasses.asdict(fault) for fault in injected]}
