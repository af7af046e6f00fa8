"""Mesh shapes for a machine, ranked: closed forms first, and then the best of them compiled.

The closed forms only choose what is worth compiling: state as `sharding.rules` places it, the activations that a
rematerialised layer keeps, and the bytes of each axis' collectives. The ranking of what was compiled is the plans' own.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from sharding.mesh import AXES
from sharding.plan.machines import GIB, Machine
from sharding.plan.plan import Plan
from sharding.rules import RULES, Axes

ACTIVATION = 2  # bytes of bfloat16
GRADIENT = 4


@dataclasses.dataclass(frozen=True)
class Load:
    """What a step asks for, whatever the mesh.

    parameters: (shape, logical axes) of each. state_bytes: of one parameter with its moments and average.
    kv_width: numbers that all global layers together keep of one slot. routed: rows that one token sends to experts,
    all layers together. accumulate: microbatches.
    """

    parameters: Sequence[tuple[tuple[int, ...], Axes]]
    state_bytes: float
    rows: int
    slots: int
    accumulate: int
    width: int
    layers: int
    hidden: int
    kv_width: int
    routed: int
    hardware_flops: float


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mesh shape with estimates: bytes of a device, and seconds of compute and of the collectives of each axis."""

    mesh: dict[str, int]
    bytes: float
    compute: float
    network: dict[str, float]

    @property
    def seconds(self) -> float:
        return max(self.compute, sum(self.network.values()))


def candidates(load: Load, num_devices: int, machine: Machine) -> list[Candidate]:
    """Every mesh shape that divides what it cuts and should fit, the fastest first."""
    found = [estimate(load, shape, machine) for shape in shapes(num_devices) if divides(load, shape)]
    return sorted((c for c in found if c.bytes <= machine.memory), key=lambda c: (c.seconds, c.bytes))


def shapes(num_devices: int) -> list[dict[str, int]]:
    """All ways to write a number of devices as a product over the axes."""
    divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
    four = itertools.product(divisors, repeat=len(AXES) - 1)
    whole = [(*sizes, num_devices // math.prod(sizes)) for sizes in four if num_devices % math.prod(sizes) == 0]
    return [dict(zip(AXES, sizes, strict=True)) for sizes in whole]


def divides(load: Load, mesh: Mapping[str, int]) -> bool:
    """Whether rows, slots and every parameter can be cut so, with none of the axes idle."""
    batch = mesh["data"] * mesh["fsdp"] * mesh["expert"]
    if load.rows % (batch * load.accumulate) or load.slots % (2 * mesh["context"]):
        return False
    if mesh["expert"] > 1 and not load.routed:
        return False
    return all(
        size % mesh[axis] == 0
        for shape, axes in load.parameters
        for size, axis in zip(shape, _mesh_axes(axes), strict=True)
        if axis
    )


def estimate(load: Load, mesh: dict[str, int], machine: Machine) -> Candidate:
    num_devices = math.prod(mesh.values())
    batch = mesh["data"] * mesh["fsdp"] * mesh["expert"]
    slots = load.rows * load.slots / (batch * mesh["context"])  # of a device in a step
    live = slots / load.accumulate
    local = gathered = 0.0  # parameters of a device, and those that it gathers
    for shape, axes in load.parameters:
        cut = {axis for axis in _mesh_axes(axes) if axis}
        size = math.prod(shape)
        local += size / math.prod(mesh[axis] for axis in cut)
        gathered += size / math.prod(mesh[axis] for axis in cut if axis != "fsdp")
    kept = live * load.width * ACTIVATION * load.layers
    working = live * (4 * load.width + 3 * load.hidden / mesh["tensor"]) * GRADIENT
    share = {axis: (size - 1) / size for axis, size in mesh.items()}
    sent = {
        "data": 2 * local * GRADIENT * share["data"],
        "fsdp": gathered * (3 * ACTIVATION * load.accumulate + GRADIENT) * share["fsdp"],
        "expert": 6 * slots * load.routed * load.width * ACTIVATION * share["expert"],
        "context": 5 * slots * load.kv_width / mesh["tensor"] * ACTIVATION * (mesh["context"] - 1),
        "tensor": 6 * 2 * slots * load.width * ACTIVATION * load.layers * share["tensor"],
    }
    bandwidth = machine.link * (2 if machine.torus else 1)
    return Candidate(
        mesh=mesh,
        bytes=local * load.state_bytes + local * GRADIENT + kept + working,
        compute=load.hardware_flops / num_devices / machine.flops,
        network={axis: size / bandwidth for axis, size in sent.items() if size},
    )


def _mesh_axes(axes: Axes) -> list[str]:
    """The mesh axis of each dim, "" where it is kept whole."""
    return [(RULES[axis] or "") if axis else "" for axis in axes]


def show_ranking(plans: Sequence[Plan], rest: Sequence[Candidate], console: Console | None = None) -> None:
    """Prints the compiled plans, fastest first, and below them what the closed forms say of the others."""
    console = console or Console()
    table = Table("mesh", "GiB of a device", "seconds", "bound by", "MFU at most")
    for plan in sorted(plans, key=lambda p: (not p.memory.fits, p.seconds.step)):
        fits = "" if plan.memory.fits else " (does not fit)"
        peak = f"{plan.memory.peak / GIB:.1f}{fits}"
        table.add_row(_name(plan.mesh), peak, f"{plan.seconds.step:.4g}", plan.seconds.bound, f"{plan.mfu:.1%}")
    for candidate in rest:
        cost = max(candidate.network, key=lambda axis: candidate.network[axis], default="")
        bound = "compute" if candidate.compute >= candidate.seconds else f"network ({cost})"
        row = (f"~{candidate.bytes / GIB:.1f}", f"~{candidate.seconds:.4g}", bound, "not compiled")
        table.add_row(_name(candidate.mesh), *row)
    console.print(table)


def _name(mesh: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1) or "one device"
