"""How often each computation of a program runs in one step.

A scan over layers is a `while` whose body the compiler counts once. Its trips are written beside it, or follow from the
constant that its condition compares the counter with. Loops whose length depends on data count once and are named.
"""

from __future__ import annotations

import dataclasses
import re

from sharding.plan.hlo import Computation, Instruction, Program

_CALLS = ("calls", "to_apply", "called_computations", "async_wrapped_computation")
_APPLIED = ("reduce", "scatter", "sort", "map", "reduce-window", "select-and-scatter")


@dataclasses.dataclass(frozen=True)
class Runs:
    """times: of each computation that instructions of the schedule call. unknown: loops that count as one trip."""

    times: dict[str, float]
    unknown: tuple[str, ...]


def runs(program: Program) -> Runs:
    """Of `conditional`s the branch is taken that is listed last, which is the one where its predicate holds."""
    times: dict[str, float] = {}
    unknown: list[str] = []

    def visit(name: str, count: float) -> None:
        computation = program.computations[name]
        times[name] = times.get(name, 0) + count
        for instruction in computation.instructions.values():
            for callee, factor in _callees(program, computation, instruction, unknown):
                visit(callee, count * factor)

    visit(program.entry, 1)
    return Runs(times, tuple(dict.fromkeys(unknown)))


def _callees(
    program: Program, computation: Computation, instruction: Instruction, unknown: list[str]
) -> list[tuple[str, float]]:
    opcode = instruction.opcode
    if opcode == "while":
        found = trips(program, computation, instruction)
        if found is None:
            unknown.append(instruction.op_name or instruction.name)
        return [(body, 1 if found is None else found) for body in instruction.called("body")]
    if opcode == "conditional":
        either = instruction.called("false_computation") + instruction.called("true_computation")
        branches = either or instruction.called("branch_computations")
        return [(branches[-1], 1)] if branches else []
    if (
        opcode in _APPLIED
        or opcode.removesuffix("-start") in ("all-reduce", "reduce-scatter")
        or opcode.endswith(("-done", "-update"))
    ):
        return []  # what is applied to elements, or was begun before
    names = [name for role in _CALLS for name in instruction.called(role)]
    return [(name, 1) for name in dict.fromkeys(names) if name in program.computations]


def trips(program: Program, computation: Computation, loop: Instruction) -> int | None:
    """How often the body of a `while` runs; None where that depends on data."""
    written = re.search(r'known_trip_count[^}]*?"n":"?(\d+)', loop.attributes)
    if written:
        return int(written[1])
    (condition,) = loop.called("condition")
    compared = _comparison(program, program.computations[condition])
    if compared is None:
        return None
    index, limit = compared
    start = _start(computation, loop, index)
    return None if start is None else max(0, limit - start)


def _comparison(program: Program, condition: Computation) -> tuple[int, int] | None:
    """(which element of the loop's state is the counter, its limit) where the loop runs while counter < limit."""
    instructions, root = condition.instructions, condition.root
    operands = [instructions[name] for name in root.operands if name in instructions]
    if root.opcode == "fusion":
        (name,) = root.called("calls")
        root = program.computations[name].root
    if root.opcode != "compare" or len(operands) != 2:
        return None
    direction = re.search(r"direction=(\w+)", root.attributes)
    constants = {i.opcode: i for i in operands}
    counter, limit = constants.get("get-tuple-element"), constants.get("constant")
    if counter is None or limit is None or not direction or direction[1] not in ("LT", "GT"):
        return None
    index = re.search(r"index=(\d+)", counter.attributes)
    return (int(index[1]), int(limit.text)) if index and re.fullmatch(r"-?\d+", limit.text) else None


def _start(computation: Computation, loop: Instruction, index: int) -> int | None:
    """The counter's first value, where it is written in the program; scans begin at 0."""
    state = computation.instructions.get(loop.operands[0]) if loop.operands else None
    if state is None or state.opcode != "tuple":
        return 0
    first = computation.instructions.get(state.operands[index])
    while first is not None and first.opcode in ("copy", "bitcast", "convert") and first.operands:
        first = computation.instructions.get(first.operands[0])
    return int(first.text) if first is not None and first.opcode == "constant" and first.text.isdigit() else 0
