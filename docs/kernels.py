"""`python -m docs.kernels > docs/kernels.md` writes what each kernel serves from what its tests have found.

The cells are listed here and filled by tests/pallas_kernels/test_matrix.py, which computes every one of them and
compares values and gradients with the definition. What it found is docs/kernels.json, written by

    KERNEL_MATRIX=docs/kernels.json python -m pytest -m "slow or not slow" tests/pallas_kernels/test_matrix.py
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator

__all__ = ["BACKENDS", "OPS", "OUTCOMES", "Group", "groups", "render"]

OUTCOMES = pathlib.Path(__file__).with_name("kernels.json")
BACKENDS = ("reference", "gpu", "tpu")
KERNEL = "kernel"  # the outcome where the backend itself computes; any other outcome is why it does not


@dataclasses.dataclass(frozen=True)
class Op:
    """An op and the values along each dim of its part of the matrix."""

    about: str
    kinds: tuple[str, ...]
    widths: tuple[int, ...] = (0,)  # head widths, 0 where there are no heads
    dtypes: tuple[str, ...] = ("bfloat16", "float16", "float32")
    directions: tuple[str, ...] = ("forward", "gradient")


OPS = {
    "interval_attention": Op(
        "Kinds of mask, all of them data of one program; `capped` is `mixed` with a soft-cap.",
        ("causal", "window", "packed", "prefix", "span", "full", "mixed", "offset", "capped"),
        widths=(64, 96, 128, 256),
    ),
    "decode_attention": Op(
        "Kinds of cache: in order, a window of it, a ring that has wrapped, empty slots, a row that sees nothing.",
        ("causal", "window", "ring", "empty slots", "idle row"),
        widths=(64, 128, 256),
        directions=("forward",),
    ),
    "diagonal_scan": Op(
        "Kinds of coefficient, with and without resets. The dtype is that of the input; all is computed in float32.",
        ("constant", "constant, resets", "per step", "per step, resets"),
        dtypes=("bfloat16", "float32"),
    ),
    "grouped_matmul": Op(
        "Kinds of group sizes. The gradient is that of the rows and that of the matrices.",
        ("even", "empty groups", "one group", "single rows", "rows of no group"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Group:
    """The cells that share a program: all kinds and directions of an op at one width, dtype and backend."""

    op: str
    width: int
    dtype: str
    backend: str

    def __str__(self) -> str:
        return "-".join((self.op, *([str(self.width)] if self.width else []), self.dtype, self.backend))

    def cells(self) -> list[str]:
        """What the group has to fill, "direction: kind"."""
        return [f"{direction}: {kind}" for direction in OPS[self.op].directions for kind in OPS[self.op].kinds]


def groups() -> list[Group]:
    return [
        Group(name, width, dtype, backend)
        for name, op in OPS.items()
        for width in op.widths
        for dtype in op.dtypes
        for backend in BACKENDS
    ]


HEAD = """# What each kernel serves

Made by `python -m docs.kernels > docs/kernels.md`. Every cell was computed by `tests/pallas_kernels/test_matrix.py`,
kernels in the simulator of the device they are for, and compared with the definition: relative error up to 1e-5 in
float32, 2e-3 in float16, 2e-2 in bfloat16. A cell shows what serves it: `gpu` and `tpu` are the kernels; a number is
the reference, taken with one warning that gives the reason below, where a forced backend refuses.

The `gpu` kernels are for Hopper (sm_90a), the `tpu` kernels for v5p, v6e and 7x. `make aot` compiles all of them for
these machines, at the shapes of production, and writes registers, shared memory and compile times to
`benchmarks/results/`.

From 0.12 on, JAX assembles GPU kernels with nvJitLink, which ignores `setmaxnreg`, so that they spill registers. Call
`pallas_kernels.assembler.use_ptxas()` before JAX first uses the GPU; its module says what that does, and how to do the
same from a shell.
"""


def render(outcomes: dict[str, dict[str, str]]) -> str:
    """The page from what was found: group -> cell -> outcome."""
    return "\n".join([HEAD, *(line for name in OPS for line in _section(name, outcomes))])


def _section(name: str, outcomes: dict[str, dict[str, str]]) -> Iterator[str]:
    op, reasons = OPS[name], []
    columns = [(backend, dtype) for backend in BACKENDS for dtype in op.dtypes]
    yield f"## `{name}`\n\n{op.about}\n"
    yield "| kind | width | direction | " + " | ".join(f"{backend} {dtype}" for backend, dtype in columns) + " |"
    yield "|---" * (3 + len(columns)) + "|"
    for kind in op.kinds:
        for width in op.widths:
            for direction in op.directions:
                cells = []
                for backend, dtype in columns:
                    outcome = outcomes[str(Group(name, width, dtype, backend))][f"{direction}: {kind}"]
                    if outcome != KERNEL and outcome not in reasons:
                        reasons.append(outcome)
                    cells.append(backend if outcome == KERNEL else f"({reasons.index(outcome) + 1})")
                yield f"| {kind} | {width or '-'} | {direction} | " + " | ".join(cells) + " |"
    yield ""
    yield from (f"{number}. {reason}" for number, reason in enumerate(reasons, 1))
    yield from [""] * bool(reasons)


if __name__ == "__main__":
    print(render(json.loads(OUTCOMES.read_text())), end="")
