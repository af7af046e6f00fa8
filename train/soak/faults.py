"""The faults: what can happen to the processes and the disk of a run, and when."""

from __future__ import annotations

import dataclasses
import os
import random
import resource
import signal
from collections.abc import Sequence
from pathlib import Path

from train.checkpoints.checksums import files_below
from train.launch.supervise import finished_steps

KINDS = {
    "kill": "SIGKILL to one process",
    "stop": "SIGSTOP to one process, which hangs",
    "term": "SIGTERM to one process or to all",
    "disk": "no process can write more to any file, as on a full disk",
    "corrupt": "a byte of the newest checkpoint is flipped, then SIGKILL to one process",
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """rank: of the process that is hit; None = all of them. step: the fault comes once the run has begun it."""

    kind: str
    rank: int | None
    step: int


def draw(seed: int, count: int, kinds: Sequence[str], processes: int, steps: int, first: int) -> list[Fault]:
    """`count` faults after different steps in first .. 0.95 steps, in order; every kind about equally often.

    Raises ValueError where there are too few steps.
    """
    last = int(0.95 * steps)
    if last - first + 1 < count:
        raise ValueError(
            f"--faults is {count}, the run has {max(last - first + 1, 0)} steps for them ({first} to {last} of {steps})"
            "; lower it, or raise config.train.steps"
        )
    drawn = random.Random(seed)
    chosen = [kinds[i % len(kinds)] for i in range(count)]
    drawn.shuffle(chosen)
    moments = sorted(drawn.sample(range(first, last + 1), count))
    faults = []
    for kind, step in zip(chosen, moments, strict=True):
        hit_all = kind == "disk" or (kind == "term" and drawn.random() < 0.5)
        faults.append(Fault(kind, None if hit_all else drawn.randrange(processes), step))
    return faults


def inflict(fault: Fault, pids: Sequence[int], phase: Path, seed: int) -> str:
    """Does it to the processes `pids`, by rank, of a run in the phase's folder; returns what was done in words."""
    hit = list(pids) if fault.rank is None else [pids[fault.rank]]
    done = ""
    if fault.kind == "corrupt":
        path, place = flip_a_byte(phase / "checkpoints" / str(max(finished_steps(phase))), seed)
        done = f"flipped byte {place} of {path.relative_to(phase)}; "
    for pid in hit:
        if fault.kind == "disk":
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))  # Python ignores the signal, writes fail
        else:
            number = {"stop": signal.SIGSTOP, "term": signal.SIGTERM}.get(fault.kind, signal.SIGKILL)
            os.kill(pid, number)
    return done + f"{fault.kind} {'all ranks' if fault.rank is None else f'rank {fault.rank}'}"


def flip_a_byte(checkpoint: Path, seed: int) -> tuple[Path, int]:
    """Changes one bit of one file; returns the file and the byte's place."""
    drawn = random.Random(seed)
    path = drawn.choice([path for path in files_below(checkpoint) if path.stat().st_size])
    content = bytearray(path.read_bytes())
    place = drawn.randrange(len(content))
    content[place] ^= 1 << drawn.randrange(8)
    path.write_bytes(content)
    return path, place
