"""The scheduled program of a TPU step and its memory, without machine code.

Machine code is most of the compiler's work and nothing that a plan reads. So a process of its own compiles with XLA's
dumps on, and is ended as soon as they are there.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import resource
import subprocess
import tempfile
import time
from collections.abc import Sequence

_PROGRAM = "*.after_optimizations.txt"
_MEMORY = "*.after_optimizations-memory-usage-report.txt"
_LATER = "*.after_optimizations_after_buffer_assignment.txt"  # begun when those two are complete
_POLL = 1.0  # seconds


@dataclasses.dataclass(frozen=True)
class Schedule:
    """text: the program, in the order in which it runs. peak_bytes: of a device's memory, without the machine code.

    cpu_seconds: of the process, tracing included, all threads together.
    """

    text: str
    peak_bytes: float
    cpu_seconds: float


def schedule(command: Sequence[str]) -> Schedule:
    """Of the program `jit_step` that `command` compiles.

    Raises:
        ValueError: the command ends before it has one, with its last words.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        dumps = f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit_step"
        environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {dumps}".strip()}
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # what is read from there is not dumped
        before, log = _children_seconds(), folder / "log"
        with log.open("w") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
            while process.poll() is None and not list(folder.glob(_LATER)):
                time.sleep(_POLL)
            process.kill()
        if not list(folder.glob(_LATER)):
            said = log.read_text().strip().splitlines()
            raise ValueError(said[-1].removeprefix("error: ") if said else f"{' '.join(command)} compiled nothing")
        (program,), (memory,) = folder.glob(_PROGRAM), folder.glob(_MEMORY)
        return Schedule(program.read_text(), peak_bytes(memory.read_text()), _children_seconds() - before)


def peak_bytes(report: str) -> float:
    """What the compiler's report of buffers says of the device's own memory; on-chip memories have other colours.

    Raises:
        ValueError: a report of another form.
    """
    found = re.search(r"Memory Space: default \(color=0\)\s+Total bytes: (\d+)", report)
    if not found:
        raise ValueError(f"the compiler's report of memory has an unknown form: {report[:80]!r}")
    return float(found[1])


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
