"""A plan as a table to read."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from sharding.plan.machines import GIB
from sharding.plan.plan import Plan
from sharding.plan.remedies import Remedy


def write_json(plan: Plan, path: pathlib.Path) -> None:
    path.write_text(json.dumps(plan.to_dict(), indent=1) + "\n")


def show(plan: Plan, tips: Sequence[Remedy], console: Console | None = None) -> None:
    """Prints memory, time and traffic, and what to try where the plan does not fit."""
    console = console or Console()
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1) or "one device"
    console.print(
        f"[bold]{plan.title}[/bold] on {plan.topology}: {plan.num_devices} x {plan.machine.name}, mesh {mesh}"
    )
    console.print(
        f"{plan.parameters / 1e9:.3g} B parameters, {plan.rows} rows of {plan.slots:,} slots, compiled in "
        f"{plan.compile_seconds:.0f} s of a CPU"
    )
    console.print(_memory(plan), _time(plan), _traffic(plan))
    if plan.kernels:
        names = ", ".join(f"{name} x {times:.0f}" for name, times in plan.kernels.items())
        console.print(f"kernels in a step: {names}")
    if plan.unknown_loops:
        console.print(f"{plan.unknown_loops} loops depend on data and count as one trip: times are too low")
    if tips:
        console.print("[bold]does not fit; to try first:[/bold]")
        for tip in tips:
            console.print(f"  {tip.field} = {tip.value}: about {tip.peak / GIB:.1f} GiB ({tip.why})")


def _memory(plan: Plan) -> Table:
    table = Table("memory of a device", "GiB", title_justify="left")
    for name, size in plan.memory.arguments.items():
        table.add_row(name, f"{size / GIB:.2f}")
    table.add_row("temporaries", f"{plan.memory.temporaries / GIB:.2f}")
    table.add_row("peak", f"{plan.memory.peak / GIB:.2f}")
    table.add_row("the device has", f"{plan.memory.capacity / GIB:.2f}")
    return table


def _time(plan: Plan) -> Table:
    seconds = plan.seconds
    table = Table("a step takes at least", "seconds")
    table.add_row(f"compute ({plan.hardware_flops:.3g} FLOP)", f"{seconds.compute:.4g}")
    table.add_row(f"memory ({plan.traffic_bytes / 1e9:.4g} GB a device)", f"{seconds.memory:.4g}")
    table.add_row("fast network", f"{seconds.fast_network:.4g}")
    table.add_row("slow network", f"{seconds.slow_network:.4g}")
    table.add_row("of the networks not overlapped", f"{seconds.exposed:.4g}")
    table.add_row(f"step as scheduled (MFU {plan.mfu:.1%} at most)", f"{seconds.step:.4g}")
    table.add_row("bound by", seconds.bound)
    return table


def _traffic(plan: Plan) -> Table:
    table = Table("collective", "axes", "devices", "network", "in program", "runs", "GB sent", "seconds", "overlapped")
    for line in plan.traffic:
        table.add_row(
            f"{line.kind} ({line.pattern})" if line.pattern else line.kind,
            line.axes,
            str(line.group),
            line.network,
            str(line.count),
            f"{line.times:.0f}",
            f"{line.sent / 1e9:.4g}",
            f"{line.seconds:.4g}",
            f"{line.overlapped:.0%}",
        )
    return table
