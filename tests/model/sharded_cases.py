"""Attention, recurrence and structure of packed rows on meshes of up to eight devices, beside one device.

Prints the largest error of all outputs and gradients, relative to the largest entry of what one device gives. The
argument is `fast` or `slow`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from model.sharded_attention import attend, attend_from_rows
from model.sharded_scan import scan
from model.structure import Structure, structure_of
from pallas_kernels.diagonal_scan import diagonal_scan
from pallas_kernels.interval_attention import interval_attention
from sharding.mesh import BATCH_AXES, MeshConfig, make_mesh
from sharding.plan.collectives import collectives
from sharding.plan.hlo import parse
from sharding.plan.loops import runs

B, T, H, K, h, N = 4, 64, 4, 2, 8, 6
SLOTS = PartitionSpec(BATCH_AXES, "context")
HEADS = PartitionSpec(BATCH_AXES, "context", "tensor")
LONGEST_SPAN = 10
LONG_ROW = 65536
HALO_WINDOW = 500
OPTIONS = {"scale": 0.4, "softcap": 2.0, "backend": "reference"}


@dataclasses.dataclass(frozen=True)
class Case:
    mesh: dict[str, int]
    window: int | None = None
    longest_span: int = LONGEST_SPAN
    slow: bool = False  # one of those that only the slow tests compute


ROWS_AND_HEADS = {"data": 2, "context": 2, "tensor": 2}
RING = {
    "2 shards": Case({"context": 2}, slow=True),
    "4 shards": Case({"context": 4}),
    "8 shards": Case({"context": 8}, slow=True),
    "with rows and heads": Case(ROWS_AND_HEADS),
    "with other rows": Case({"fsdp": 2, "expert": 2, "context": 2}, slow=True),
    "a window as long as the row": Case({"context": 4}, window=T, slow=True),
}
HALO = {
    "less than a shard": Case({"context": 2}, window=9, slow=True),
    "several neighbours": Case({"context": 8}, window=21),
    "spans longer than the window": Case({"context": 4}, window=3),
    "with rows and heads": Case(ROWS_AND_HEADS, window=7, slow=True),
}
ONE_CONTEXT_SHARD = {
    "rows": Case({"data": 4}, slow=True),
    "rows and heads": Case({"fsdp": 2, "tensor": 2}, window=5),
}
FROM_ROWS = {"4 shards": Case({"context": 4}, slow=True), "with rows and heads": Case(ROWS_AND_HEADS)}
SCAN = {
    "2 shards": Case({"context": 2}, slow=True),
    "4 shards": Case({"context": 4}, slow=True),
    "8 shards": Case({"context": 8}),
    "with rows and states": Case(ROWS_AND_HEADS),
    "rows alone": Case({"expert": 4}, slow=True),
}
STRUCTURE = {"2 shards": Case({"context": 2}, slow=True), "8 shards": Case({"context": 8})}
PROGRAM = {
    "ring of 4": Case({"context": 4}),
    "ring of 8": Case({"context": 8}),
    "halo of 8": Case({"context": 8}, window=HALO_WINDOW),
}


def ids() -> tuple[jax.Array, ...]:
    """Segments of 1 to 64 slots that no shard's edge respects, spans of 2 to 10 over such edges, padding at the end."""
    segment_BT, span_BT = np.zeros((B, T), np.int32), np.zeros((B, T), np.int32)
    for row, lengths in enumerate(([T], [7, 1, 22, 30], [31, 2, 31], [13, 27])):
        starts = np.cumsum([0, *lengths])
        for i, (first, end) in enumerate(itertools.pairwise(starts)):
            segment_BT[row, first:end] = i + 1
    for i, (row, first, length) in enumerate([(0, 27, 10), (0, 60, 4), (1, 12, 8), (2, 14, 3), (3, 7, 2), (3, 31, 5)]):
        span_BT[row, first : first + length] = i + 1
    return jnp.array(segment_BT), jnp.zeros((B, T), jnp.int32), jnp.array(span_BT)


@functools.cache
def structure_here() -> Structure:
    segment_BT, position_BT, span_BT = ids()
    return structure_of(segment_BT, position_BT, span_BT)


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def mesh_of(case: Case) -> Any:
    sizes: dict[str, Any] = {"data": 1} | case.mesh
    return make_mesh(MeshConfig(**sizes), jax.devices()[: math.prod(sizes.values())])


def largest_error(case: Case, spread, one_device, args, specs, constants=()) -> float:
    """Between outputs and gradients of both under random cotangents; `spread` gets arguments placed by `specs`."""
    cotangents = jax.tree.map(lambda x: normal(9, *x.shape), jax.eval_shape(one_device, *args, *constants))

    def both(function):
        def run(args, constants):
            out, back = jax.vjp(lambda *args: function(*args, *constants), *args)
            return out, back(cotangents)

        return jax.jit(run)

    want = both(one_device)(args, constants)
    mesh = mesh_of(case)
    placed = [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(args, specs, strict=True)]
    with jax.set_mesh(mesh):
        got = both(spread)(tuple(placed), constants)
    error = lambda g, w: float(jnp.max(jnp.abs(g - w)) / jnp.max(jnp.abs(w)))  # noqa: E731
    return max(jax.tree.leaves(jax.tree.map(error, jax.device_get(got), jax.device_get(want))))


def attention(case: Case) -> Any:
    args = normal(0, B, T, H, h), normal(1, B, T, K, h), normal(2, B, T, K, h)

    def spread(q, k, v, structure):
        return attend(q, k, v, structure, case.window, case.longest_span, **OPTIONS)

    def plain(q, k, v, structure):
        return interval_attention(q, k, v, *structure.interval(case.window), **OPTIONS)

    return largest_error(case, spread, plain, args, [HEADS] * 3, (structure_here(),))


def from_rows(case: Case) -> Any:
    """Nine queries a row, one of them without keys."""
    args = normal(0, B, 9, H, h), normal(1, B, T, K, h), normal(2, B, T, K, h)
    lo = jnp.array([[0, 3, 40, 7, 60, 30, 5, 31, 33]] * B)
    hi = jnp.array([[64, 4, 64, 50, 61, 34, 5, 33, 40]] * B)
    specs = [PartitionSpec(BATCH_AXES, None, "tensor"), HEADS, HEADS]
    run = lambda function: lambda *x: function(*x, lo, hi, **OPTIONS)  # noqa: E731
    return largest_error(case, run(attend_from_rows), run(interval_attention), args, specs)


def recurrence(case: Case) -> Any:
    angle, radius = np.linspace(0.1, 3, N), np.linspace(0.5, 0.999, N)
    a = jnp.array(radius * np.cos(angle), jnp.float32), jnp.array(radius * np.sin(angle), jnp.float32)
    args = *a, normal(0, B, T, N), normal(1, B, T, N)
    keep_BT = structure_here().keep_BT
    spread = lambda *x: scan(x[:2], x[2:4], x[4], backend="reference")  # noqa: E731
    plain = lambda *x: diagonal_scan(*x, backend="reference")[:2]  # noqa: E731
    return largest_error(case, spread, plain, args, [PartitionSpec("tensor")] * 2 + [HEADS] * 2, (keep_BT,))


def structure(case: Case) -> Any:
    mesh = mesh_of(case)
    placed = jax.device_put(ids(), NamedSharding(mesh, SLOTS))
    with jax.set_mesh(mesh):
        got: Structure = jax.jit(structure_of)(*placed)
    return all(jax.tree.leaves(jax.tree.map(lambda g, w: np.array_equal(g, w), got, structure_here())))


def broken_promise(_: Case) -> Any:
    """Rows that are not numbers where spans are longer than said: those whose keys lie beyond the halo, no others."""
    case = Case({"context": 4}, window=3, longest_span=2)
    mesh, structure = mesh_of(case), structure_here()
    args = normal(0, B, T, H, h), normal(1, B, T, K, h), normal(2, B, T, K, h)
    with jax.set_mesh(mesh):
        run = lambda q, k, v: attend(q, k, v, structure, case.window, case.longest_span, **OPTIONS)  # noqa: E731
        out, _ = jax.jit(run)(*args)
    lo_BT, hi_BT = structure.interval(case.window)
    shard_BT = structure.slot_BT // (T // 4) * (T // 4)
    beyond_BT = (lo_BT < hi_BT) & ((lo_BT < shard_BT - 2) | (hi_BT > shard_BT + T // 4 + 1))
    return bool(beyond_BT.any()) and np.array_equal(np.isnan(out).all((2, 3)), beyond_BT)


def program(case: Case) -> Any:
    """What the compiled forward and backward pass of attention to long rows sends along each axis, and its memory."""
    mesh = mesh_of(case)
    spread = lambda spec, *shape: jax.ShapeDtypeStruct(shape, "float32", sharding=NamedSharding(mesh, spec))  # noqa: E731
    heads = [spread(HEADS, 1, LONG_ROW, n, h) for n in (H, K, K)]
    number = spread(SLOTS, 1, LONG_ROW)
    like = jax.tree.map(lambda x: number.update(dtype=x.dtype), structure_here())

    def both(q, k, v, d_out, structure):
        run = lambda q, k, v: attend(q, k, v, structure, case.window, case.longest_span, **OPTIONS)[0]  # noqa: E731
        return jax.vjp(run, q, k, v)[1](d_out)

    with jax.set_mesh(mesh):
        compiled = jax.jit(both).lower(*heads, heads[0], like).compile()
    text, memory = parse(compiled.as_text() or ""), compiled.memory_analysis()
    assert memory is not None
    sent = collectives(text, runs(text), dict(mesh.shape))
    return {
        "kinds": sorted({c.kind for c in sent}),
        "bytes": sum(c.sent_in_step for c in sent if c.axes == ("context",)),
        "largest": max(c.sent for c in sent),
        "temporaries": memory.temp_size_in_bytes,
    }


GROUPS = {
    "ring": (attention, RING),
    "halo": (attention, HALO),
    "kernel": (attention, ONE_CONTEXT_SHARD),
    "from rows": (from_rows, FROM_ROWS),
    "scan": (recurrence, SCAN),
    "structure": (structure, STRUCTURE),
    "program": (program, PROGRAM),
    "broken promise": (broken_promise, {"a span": Case({})}),
}

if __name__ == "__main__":
    jax.config.update("jax_disable_most_optimizations", True)
    slow = sys.argv[1] == "slow"
    found: dict[str, Any] = {
        group: {name: compute(case) for name, case in cases.items() if case.slow == slow}
        for group, (compute, cases) in GROUPS.items()
    }
    print(json.dumps(found))
