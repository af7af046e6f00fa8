"""What must not happen to a kernel, and the table of what did."""

from __future__ import annotations

from typing import Any

from benchmarks.aot.ptxas import Kernel

__all__ = ["MAX_SMEM", "broken", "table"]

MAX_SMEM = 227 * 1024  # of one block on Hopper


def broken(result: dict[str, Any], kernels: list[Kernel] | None) -> list[str]:
    """The rules that a compiled case breaks, in words; `kernels` is None for a TPU, whose compiler tells no more."""
    if "error" in result:
        return [result["error"]]
    if "fallback" in result:
        return []
    if not result["num_kernels"]:
        return ["no kernel in the program: the reference was compiled"]
    if kernels is None:
        return []
    found = [f"{kernel.name}: {problem}" for kernel in kernels for problem in _problems(kernel)]
    return found if kernels else ["ptxas printed nothing about the kernels of the program"]


def _problems(kernel: Kernel) -> list[str]:
    found = list(kernel.messages)
    if kernel.target != "sm_90a":
        found.append(f"compiled for {kernel.target}, not for sm_90a")
    if kernel.spill_stores or kernel.spill_loads:
        found.append(f"spills {kernel.spill_stores} bytes and loads {kernel.spill_loads}")
    if kernel.smem > MAX_SMEM:
        found.append(f"{kernel.smem} bytes of shared memory, more than {MAX_SMEM}")
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """One line for each kernel of each case on a GPU, one for each case on a TPU; broken rules below."""
    lines, problems = [], []
    for row in rows:
        start = [row["case"], row["machine"], _number(row.get("seconds"), 1)]
        memory = _number(row.get("temporary_bytes"), 2**20)
        verdict = "BROKEN" if row["broken"] else "reference" if "fallback" in row else "ok"
        for kernel in row.get("kernels") or [{}]:
            smem = kernel.get("static_smem", 0) + kernel.get("dynamic_smem", 0)
            figures = [
                kernel.get("name", "-"),
                _number(kernel.get("registers"), 1),
                _number(kernel.get("spill_stores"), 1),
                _number(smem or None, 1024),
                _number(kernel.get("threads"), 1),
            ]
            lines.append([*start, *figures, memory, verdict])
        problems += [f"{row['case']} on {row['machine']}: {problem}" for problem in row["broken"]]
    head = ["case", "machine", "s", "kernel", "registers", "spills", "smem KB", "threads", "temp MB", "verdict"]
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [head, *lines]]
    return "\n".join([*(line.rstrip() for line in text), *(["", "Broken:"] if problems else []), *problems])


def _number(value: float | None, unit: int) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else f"{value / unit:.0f}"
