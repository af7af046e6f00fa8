"""What the program itself does on one device: FLOPs of its matrix products and bytes that it moves through memory.

Kernels are opaque to both: their operands and results count once, their FLOPs not at all; `model.flops` has those.
"""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np

from sharding.plan.hlo import Array, Computation, Instruction, Program
from sharding.plan.loops import Runs

_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "iota"),
    *("after-all", "partition-id", "replica-id", "opt-barrier", "add-dependency", "bitcast-convert"),
}
_SLICES = {"dynamic-slice", "slice", "gather"}


@dataclasses.dataclass(frozen=True)
class Work:
    """Of one device in one step. kernels: runs of each custom kernel, by name."""

    matmul_flops: float
    traffic_bytes: float
    kernels: dict[str, float]


def work(program: Program, runs: Runs) -> Work:
    scheduled = _scheduled(program)
    flops = traffic = 0.0
    kernels: dict[str, float] = {}
    for name, times in runs.times.items():
        computation = program.computations[name]
        for instruction in computation.instructions.values():
            if instruction.opcode in ("dot", "convolution"):
                flops += times * matmul_flops(computation, instruction)
            if name in scheduled:
                traffic += times * traffic_bytes(program, computation, instruction)
            if instruction.opcode == "custom-call" and (kernel := kernel_name(instruction)):
                kernels[kernel] = kernels.get(kernel, 0) + times
    return Work(flops, traffic, dict(sorted(kernels.items())))


def kernel_name(call: Instruction) -> str | None:
    """The name of a Pallas kernel, whichever device it is compiled for; None for the compiler's own calls."""
    target = re.search(r'custom_call_target="([^"]*)"', call.attributes)
    if not target or not re.search(r"tpu_custom_call|mosaic_gpu|__gpu\$xla\.gpu\.triton", target[1]):
        return None
    path = call.op_name.removesuffix("/pallas_call").rstrip("/")
    return re.sub(r"[.\d]+$", "", path.split("/")[-1]) or call.name


def _scheduled(program: Program) -> set[str]:
    """Computations whose instructions are launched one after another, not fused into one."""
    found, waiting = set(), [program.entry]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for instruction in program.computations[name].instructions.values():
            if instruction.opcode in ("while", "conditional", "call", "async-start", "call-start"):
                roles = ("body", "true_computation", "false_computation", "branch_computations", "to_apply", "calls")
                waiting += [callee for role in roles for callee in instruction.called(role)]
    return found & set(program.computations)


def matmul_flops(computation: Computation, product: Instruction) -> float:
    """2 x multiply-adds of a `dot` or of a `convolution`, as which TPUs write dots; zeros of a padding do not count."""
    left, right = (computation.instructions[name].arrays[0] for name in product.operands[:2])
    if product.opcode == "dot":
        dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", product.attributes)
        contracted = [left.dims[int(d)] for d in dims[1].split(",") if d] if dims else []
        return 2.0 * product.arrays[0].size * math.prod(contracted)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", product.attributes)
    assert labels, product.attributes
    given, kernel, result = labels.groups()
    out = product.arrays[0]
    total = 2.0 * out.dims[result.index("b")] * out.dims[result.index("f")] * right.dims[kernel.index("i")]
    windows = _windows(product.attributes, sum(label.isdigit() for label in result))
    for number, window in enumerate(windows):
        label = str(number)
        total *= _taps(left.dims[given.index(label)], out.dims[result.index(label)], window)
    return total


def _windows(attributes: str, count: int) -> list[dict[str, tuple[int, ...]]]:
    """For each spatial dim: size, stride, pad, lhs_dilate, rhs_dilate."""
    text = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in text[1].split()) if text else {}
    found: list[dict[str, tuple[int, ...]]] = [{} for _ in range(count)]
    for field, values in fields.items():
        for window, value in zip(found, values.split("x"), strict=True):
            window[field] = tuple(int(x) for x in value.split("_"))
    return found


def _taps(size_in: int, size_out: int, window: dict[str, tuple[int, ...]]) -> int:
    """How many (result, kernel) pairs meet an element that is there, along one dim."""
    one = (1,)
    size, stride = window.get("size", one)[0], window.get("stride", one)[0]
    below, spread = window.get("lhs_dilate", one)[0], window.get("rhs_dilate", one)[0]
    pad = window.get("pad", (0, 0))[0]
    if size_out * size > 10_000_000:  # a window as long as what it slides over: every element is met once
        return max(size_in, size_out, size)
    at = np.arange(size_out)[:, None] * stride - pad + np.arange(size)[None] * spread
    return int(np.sum((at >= 0) & (at <= (size_in - 1) * below) & (at % below == 0)))


def traffic_bytes(program: Program, computation: Computation, instruction: Instruction) -> float:
    """Bytes read and written in the device's memory by one launch; what lies on the chip is free."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done") or opcode.endswith("-update"):
        return 0.0
    operands = [computation.instructions.get(name) for name in instruction.operands]
    reads = [_off_chip(operand.arrays) if operand else 0.0 for operand in operands]
    writes = _off_chip(instruction.arrays)
    if opcode in _SLICES:
        return 2 * writes
    if opcode in ("dynamic-update-slice", "scatter"):
        return 2 * reads[1 if opcode == "dynamic-update-slice" else -1]
    if opcode.endswith("-start"):  # the results list the operands again
        return sum(reads) + max(writes - sum(reads), 0)
    if opcode == "fusion":
        (name,) = instruction.called("calls")
        return _fusion_bytes(program.computations[name], reads, writes)
    return sum(reads) + writes


def _fusion_bytes(fused: Computation, reads: list[float], writes: float) -> float:
    """Operands of which slices alone are read, and results of which slices alone are written, count as the slices."""
    parameters = {int(i.text): i for i in fused.instructions.values() if i.opcode == "parameter"}
    total, written = 0.0, writes
    for number, read in enumerate(reads):
        parameter = parameters.get(number)
        if parameter is None:
            total += read
            continue
        users = [i for i in fused.instructions.values() if parameter.name in i.operands]
        if read and users and all(u.opcode in _SLICES and u.operands[0] == parameter.name for u in users):
            read = min(read, sum(user.bytes for user in users))
        updating = [u for u in users if u.opcode == "dynamic-update-slice" and u.operands[0] == parameter.name]
        if read and updating and len(updating) == len(users):
            changed = sum(fused.instructions[u.operands[1]].bytes for u in updating)
            written -= min(read - changed, written)
            read = 0.0
        total += read
    return total + max(written, 0.0)


def _off_chip(arrays: tuple[Array, ...]) -> float:
    return sum(array.bytes for array in arrays if not array.on_chip)
