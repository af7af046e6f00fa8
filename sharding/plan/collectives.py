"""Every collective of a program: what it sends, how often, between whom, and whether compute runs meanwhile."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from sharding.plan.groups import axes_between, groups_of, pairs_of, pattern_of
from sharding.plan.hlo import Computation, Instruction, Program
from sharding.plan.loops import Runs

KINDS = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
_IDLE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "copy-start", "copy-done"}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program.

    kind: as the compiler names it; an all-reduce of which each device keeps its part alone is a reduce-scatter.
    pattern: of a permutation, see `groups.pattern_of`; else empty.
    axes: along which the devices of a group differ. group: devices in it.
    members: of the first group, as places in `mesh.devices.flat`; of a permutation, all that it joins there.
    payload: bytes of the whole array that is gathered, reduced or exchanged by one group, or sent on by each device.
    sent: bytes that each device sends in one run, by the ring algorithms. times: runs in a step.
    overlapped: something else is computed between its start and its end.
    """

    kind: str
    pattern: str
    axes: tuple[str, ...]
    group: int
    members: tuple[int, ...]
    payload: float
    sent: float
    times: float
    overlapped: bool
    where: str

    @property
    def sent_in_step(self) -> float:
        return self.sent * self.times


def collectives(program: Program, runs: Runs, mesh_shape: Mapping[str, int]) -> list[Collective]:
    """All that send anything, the largest senders first."""
    found = []
    beside = _wrapped(program)
    for name, times in runs.times.items():
        computation = program.computations[name]
        for instruction in computation.instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind in KINDS and times:
                one = _collective(computation, instruction, kind, times, mesh_shape)
                found.append(dataclasses.replace(one, overlapped=True) if one and beside.get(name) else one)
    sending = [collective for collective in found if collective is not None and collective.sent]
    return sorted(sending, key=lambda c: -c.sent_in_step)


def sent_bytes(kind: str, payload: float, group: int) -> float:
    """Bytes that each device sends: ring algorithms, which none can beat in bytes (Patarasuk & Yuan 2009)."""
    share = (group - 1) / group
    if kind == "all-reduce":
        return 2 * payload * share
    return payload if kind in ("collective-permute", "collective-broadcast") else payload * share


def _wrapped(program: Program) -> dict[str, bool]:
    """Computations that run as one asynchronous operation: whether the schedule has work beside them."""
    return {
        callee: _computes_meanwhile(computation, instruction)
        for computation in program.computations.values()
        for instruction in computation.instructions.values()
        if instruction.opcode in ("async-start", "call-start")
        for callee in instruction.called("calls") + instruction.called("to_apply")
    }


def _collective(
    computation: Computation, instruction: Instruction, kind: str, times: float, mesh_shape: Mapping[str, int]
) -> Collective | None:
    num_devices = int(np.prod(list(mesh_shape.values())))
    asynchronous = instruction.opcode.endswith("-start")
    operands = [computation.instructions[name] for name in instruction.operands if name in computation.instructions]
    given = sum(operand.bytes for operand in operands)
    pattern = ""
    if kind == "collective-permute":
        pairs = pairs_of(instruction.attributes)
        if pairs is None or not len(pairs):
            return None
        axes, members = axes_between(pairs, mesh_shape), _component(pairs)
        group, payload, pattern = len(members), given, pattern_of(pairs, mesh_shape)
    else:
        groups = groups_of(instruction.attributes, num_devices)
        groups = np.arange(num_devices)[None] if groups is None else groups
        axes, members, group = axes_between(groups, mesh_shape), groups[0], groups.shape[1]
        payload = _payload(kind, instruction, given, group)
        if kind == "all-reduce" and _keeps_a_part(computation, instruction):
            kind = "reduce-scatter"
    if group < 2:
        return None
    return Collective(
        kind=kind,
        pattern=pattern,
        axes=axes,
        group=group,
        members=tuple(int(member) for member in members),
        payload=payload,
        sent=sent_bytes(kind, payload, group),
        times=times,
        overlapped=asynchronous and _computes_meanwhile(computation, instruction),
        where=instruction.op_name,
    )


def _payload(kind: str, instruction: Instruction, given: float, group: int) -> float:
    if kind == "all-gather":
        return given * group
    if kind == "ragged-all-to-all":  # operands: what is sent, the buffer that receives, four vectors of sizes
        return given - instruction.bytes if given > instruction.bytes else given
    return given


def _keeps_a_part(computation: Computation, instruction: Instruction) -> bool:
    """True for an all-reduce fused with the slice that is this device's: TPUs run it as a reduce-scatter."""
    root = computation.root
    return instruction.name != root.name and 0 < root.bytes < instruction.bytes and root.opcode == "dynamic-slice"


def _component(pairs: np.ndarray) -> list[int]:
    """The devices of the ring that the first pair is part of."""
    after = {int(a): int(b) for a, b in pairs}
    before = {b: a for a, b in after.items()}
    first = int(pairs[0, 0])
    while before.get(first, int(pairs[0, 0])) != int(pairs[0, 0]):
        first = before[first]
    members = [first]
    while (following := after.get(members[-1])) is not None and following not in members:
        members.append(following)
    return sorted(members)


def _computes_meanwhile(computation: Computation, start: Instruction) -> bool:
    """Whether the schedule has work between a `-start` and the `-done` that waits for it."""
    inside = False
    for instruction in computation.instructions.values():
        if instruction.name == start.name:
            inside = True
        elif inside and instruction.opcode.endswith("-done") and start.name in instruction.operands:
            return False
        elif inside and instruction.opcode not in _IDLE and not instruction.opcode.endswith(("-start", "-done")):
            return True
    return False
