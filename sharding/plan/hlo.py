"""A compiled program's text as computations and instructions: only what plans ask for."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

_BYTES = {"pred": 1, "token": 0, "opaque": 0, "s4": 0.5, "u4": 0.5, "s2": 0.25, "u2": 0.25, "f4e2m1fn": 0.5}
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_OPERAND = re.compile(r"%([\w.\-]+(?:#\d+)?)")


@dataclasses.dataclass(frozen=True)
class Array:
    """Type, dims and, on TPUs, whether it lies in the on-chip memory (`S(1)` in its layout) instead of the device's."""

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        return self.size * bytes_of(self.dtype)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`%name = arrays opcode(operands), attributes`; a tuple has several arrays. `text` holds what is in brackets.

    An operand `%name#2` is element 2 of a tuple; among the instructions it is a `get-tuple-element` of that name.
    """

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    text: str
    attributes: str
    root: bool

    @property
    def bytes(self) -> float:
        return sum(array.bytes for array in self.arrays)

    def called(self, role: str) -> list[str]:
        """Computations named by `role=%a` or `role={%a, %b}`."""
        found = re.search(role + r"=(\{[^}]*\}|%[\w.\-]+)", self.attributes)
        return _OPERAND.findall(found[1]) if found else []

    @property
    def op_name(self) -> str:
        """Where in the traced program it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    name: str
    instructions: dict[str, Instruction]  # in the order of the text, which is that of the schedule

    @property
    def root(self) -> Instruction:
        return next(i for i in reversed(self.instructions.values()) if i.root)


@dataclasses.dataclass(frozen=True)
class Program:
    computations: dict[str, Computation]
    entry: str


def bytes_of(dtype: str) -> float:
    """Bytes of one element: bf16 -> 2, c64 -> 8, pred -> 1."""
    if dtype in _BYTES:
        return _BYTES[dtype]
    bits = re.search(r"\d+", dtype)
    assert bits, dtype
    return int(bits[0]) / 8


def parse(text: str) -> Program:
    """Read what `compiled.as_text()` gives, or what the compiler writes down as `*.after_optimizations.txt`.

    Raises:
        ValueError: a text without an entry computation.
    """
    computations, entry = {}, None
    name, instructions = "", {}
    types: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("}"):
            computations[name] = Computation(name, instructions)
        elif head := _HEAD.match(line):
            name, instructions, types = head[2], {}, {}
            entry = name if head[1] else entry
        elif found := _INSTRUCTION.match(line):
            one, types[found[2]] = _instruction(found[2], bool(found[1]), line[found.end() :])
            for operand in one.operands:
                if "#" in operand and operand not in instructions:
                    instructions[operand] = _element(operand, types)
            instructions[one.name] = one
    if entry is None:
        raise ValueError("the text has no ENTRY computation; give the text of a compiled program")
    return Program(computations, entry)


def arrays_of(text: str) -> Iterator[Array]:
    for dtype, dims, layout in _ARRAY.findall(text):
        sizes = [int(dim.lstrip("<=")) for dim in dims.split(",") if dim]
        yield Array(dtype, tuple(sizes), "S(1)" in layout)


def _element(name: str, types: dict[str, str]) -> Instruction:
    """What `%tuple#index` stands for."""
    whole, _, index = name.partition("#")
    arrays = tuple(arrays_of(_elements(types[whole])[int(index)]))
    return Instruction(name, arrays, "get-tuple-element", (whole,), f"%{whole}", f", index={index}", False)


def _elements(types: str) -> list[str]:
    """The elements of a tuple's type, each of which may be a tuple."""
    found, depth, begin = [], 0, 1
    for at, character in enumerate(types):
        depth += (character in "([{") - (character in ")]}")
        if (depth == 1 and character == ",") or (depth == 0 and character == ")"):
            found.append(types[begin:at])
            begin = at + 1
    return found


def _instruction(name: str, root: bool, rest: str) -> tuple[Instruction, str]:
    """The instruction, and its type as it is written."""
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    types, rest = rest[:end], rest[end:].lstrip()
    opened = rest.index("(")
    closed = opened + _closing(rest[opened:])
    inside = rest[opened + 1 : closed - 1]
    operands = tuple(_OPERAND.findall(inside))
    one = Instruction(name, tuple(arrays_of(types)), rest[:opened], operands, inside, rest[closed:], root)
    return one, types


def _closing(text: str) -> int:
    """One past the bracket that closes the one the text begins with."""
    depth = 0
    for bracket in re.finditer(r"[()]", text):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 0:
            return bracket.end()
    raise ValueError(f"brackets do not match in {text[:80]!r}")
