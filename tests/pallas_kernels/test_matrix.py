"""Every cell of docs/kernels.md: value and gradients of each kind of call on each backend against the definition.

Kinds are data, so a group of cells is one program: kinds of masks are rows of one batch. With KERNEL_MATRIX=<file> what
is found is written there; without, it has to be what docs/kernels.json says.
"""

import contextlib
import functools
import json
import logging
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from docs import kernels as docs
from pallas_kernels import backend
from pallas_kernels.decode_attention import decode_attention
from pallas_kernels.diagonal_scan import diagonal_scan
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.interval_attention import interval_attention
from tests.pallas_kernels import definitions, intervals

TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
SOFTCAP = 2.0
RECORD = os.environ.get("KERNEL_MATRIX")
pytestmark = pytest.mark.usefixtures("quick_compilation")


class Program(NamedTuple):
    """One compiled call that fills several cells.

    `call(*wrt, *data, backend=...)` and `define(*wrt, *data)` give the same outputs, for each entry of `runs` and its
    kinds, which are the rows of the batch or share all of it. `select` are the arguments that choose the backend.
    """

    call: Callable[..., Any]
    define: Callable[..., Any]
    wrt: tuple[jax.Array, ...]
    runs: dict[tuple[str, ...], tuple[jax.Array, ...]]
    select: tuple[tuple, dict[str, Any]]


def attention_programs(group: docs.Group) -> list[Program]:
    T, S, H, K, h = 64, 96, 2, 1, group.width
    kinds = docs.OPS[group.op].kinds

    def program(kinds, softcap):
        q, k, v, *_ = intervals.arrays(len(kinds), T, S, H, K, h, group.dtype)
        rows = [intervals.interval("mixed" if kind == "capped" else kind, T, S) for kind in kinds]
        lo, hi = (jnp.asarray(np.stack(x), jnp.int32) for x in zip(*rows, strict=True))
        options = {"scale": h**-0.5, "softcap": softcap}
        call = lambda q, k, v, **name: interval_attention(q, k, v, lo, hi, **options, **name)  # noqa: E731
        define = functools.partial(definitions.attention, allowed_BTS=inside(np.arange(S), lo, hi), **options)
        return Program(call, define, (q, k, v), {kinds: ()}, ((q, k), {"softcap": softcap}))

    return [program(kinds[:-1], None), program(kinds[-1:], SOFTCAP)]


def decode_programs(group: docs.Group) -> list[Program]:
    S, H, K, h = 256, 4, 2, group.width
    kinds = docs.OPS[group.op].kinds
    q, k, v, *_ = intervals.arrays(len(kinds), 1, S, H, K, h, group.dtype)
    slot = np.arange(S)
    position = {"ring": (slot - 100) % S + 300, "empty slots": np.where(slot % 3 == 0, slot, -1)}
    lo = {"window": 150, "ring": 400, "idle row": 9}
    hi = {"ring": 556, "idle row": 9}
    position_BS = jnp.asarray(np.stack([position.get(kind, slot) for kind in kinds]), jnp.int32)
    lo_BT, hi_BT = (jnp.asarray([[x.get(kind, y)] for kind in kinds], jnp.int32) for x, y in ((lo, 0), (hi, 200)))
    scale = h**-0.5
    call = lambda q, k, v, **name: decode_attention(q, k, v, position_BS, lo_BT, hi_BT, scale=scale, **name)  # noqa: E731
    define = functools.partial(definitions.attention, allowed_BTS=inside(position_BS, lo_BT, hi_BT), scale=scale)
    return [Program(call, define, (q, k, v), {kinds: ()}, ((q, k), {"softcap": None}))]


def inside(position_BS, lo_BT, hi_BT) -> np.ndarray:
    position_B1S = np.atleast_2d(position_BS)[:, None]
    allowed_BTS = (np.asarray(lo_BT)[..., None] <= position_B1S) & (position_B1S < np.asarray(hi_BT)[..., None])
    return allowed_BTS & (position_B1S >= 0)


def scan_programs(group: docs.Group) -> list[Program]:
    T, N = 70, 40
    rng = np.random.default_rng(0)
    x = tuple(jnp.asarray(rng.normal(size=(2, T, N)), group.dtype) for _ in range(2))
    keep_BT = np.ones((2, T), np.float32)
    keep_BT[1, [0, 9, 10, 65]] = 0  # the first row is never reset

    def program(kind, *shape):
        modulus, angle = rng.uniform(0.8, 1.0, shape), rng.uniform(-3, 3, shape)
        a = tuple(jnp.asarray(modulus * turn(angle), jnp.float32) for turn in (np.cos, np.sin))
        call = lambda *wrt, **name: diagonal_scan(*wrt, keep_BT, **name)[:2]  # noqa: E731
        define = functools.partial(definitions.scan, keep_BT=keep_BT)
        selected = (a, tuple(plane.astype(jnp.float32) for plane in x))
        return Program(call, define, (*a, *x), {(kind, f"{kind}, resets"): ()}, (selected, {}))

    return [program("constant", N), program("per step", 2, T, N)]


SIZES = {
    "even": [64, 64, 64, 64],
    "empty groups": [0, 250, 6, 0],
    "one group": [0, 0, 256, 0],
    "single rows": [1, 1, 253, 1],
    "rows of no group": [20, 0, 110, 5],
}


def grouped_programs(group: docs.Group) -> list[Program]:
    M, D, F, E = 256, 128, 128, 4
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=shape), group.dtype) for shape in ((M, D), (E, D, F)))

    runs = {(kind,): (jnp.asarray(SIZES[kind], jnp.int32),) for kind in docs.OPS[group.op].kinds}
    return [Program(grouped_matmul, definitions.grouped, (x, w), runs, ((x, w), {}))]


PROGRAMS = {
    "interval_attention": attention_programs,
    "decode_attention": decode_programs,
    "diagonal_scan": scan_programs,
    "grouped_matmul": grouped_programs,
}


def reason(group: docs.Group, program: Program) -> str | None:
    """Why the backend leaves the program to the reference."""
    if group.backend == "reference":
        return None
    arguments, options = program.select
    return backend.module(group.op, group.backend).unsupported(*arguments, **options)


def assert_right(group: docs.Group, program: Program) -> None:
    """The backend's values and gradients are those of the definition."""
    emulated = functools.partial(backend.emulate, group.backend)
    context = contextlib.nullcontext if group.backend == "reference" else emulated
    computed = with_gradients(functools.partial(program.call, backend=group.backend), group, len(program.wrt))
    defined = with_gradients(program.define, group, len(program.wrt))
    for kinds, data in program.runs.items():
        with context():
            actual = jax.tree.map(np.asarray, computed(*program.wrt, *data))
        expected = jax.tree.map(np.asarray, defined(*program.wrt, *data))
        for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            rows = zip(kinds, a, e, strict=True) if len(a) == len(kinds) > 1 else [(kinds, a, e)]
            for kind, a_row, e_row in rows:
                assert intervals.relative_error(a_row, e_row) <= TOLERANCE[group.dtype], kind


def assert_falls_back(group: docs.Group, program: Program) -> None:
    """The op takes the reference, which the reference's own cells test; a forced backend is refused."""
    (data, *_) = program.runs.values()
    with backend.emulate(group.backend):
        jax.eval_shape(program.call, *program.wrt, *data)
        arguments, options = program.select
        assert backend.select(group.op, "auto", *arguments, **options) == "reference"
        with pytest.raises(ValueError, match="backend: got"):
            jax.eval_shape(functools.partial(program.call, backend=group.backend), *program.wrt, *data)


def with_gradients(function: Callable[..., Any], group: docs.Group, num_wrt: int) -> Callable[..., Any]:
    """Outputs, and where the op has them gradients for cotangents that differ from place to place; compiled."""
    if "gradient" not in docs.OPS[group.op].directions:
        return jax.jit(function)

    def both(*arguments):
        out, pull_back = jax.vjp(lambda *wrt: function(*wrt, *arguments[num_wrt:]), *arguments[:num_wrt])
        wave = lambda y: jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype)  # noqa: E731
        return out, pull_back(jax.tree.map(wave, out))

    return jax.jit(both)


def parameters() -> list[Any]:
    """Fallbacks are quick, and so is the reference in one dtype; the simulators of the devices are not."""
    known = json.loads(docs.OUTCOMES.read_text()) if docs.OUTCOMES.exists() else {}
    computed = [docs.KERNEL in known.get(str(group), {"": docs.KERNEL}).values() for group in docs.groups()]
    quick = [(group.backend, group.dtype) == ("reference", "float32") for group in docs.groups()]
    marks = [[] if easy or not found else [pytest.mark.slow] for found, easy in zip(computed, quick, strict=True)]
    return [pytest.param(group, id=str(group), marks=mark) for group, mark in zip(docs.groups(), marks, strict=True)]


@pytest.mark.parametrize("group", parameters())
def test_a_backend_computes_what_the_definition_says_or_gives_its_reason(group):
    found = {}
    for program in PROGRAMS[group.op](group):
        why = reason(group, program)
        (assert_falls_back if why else assert_right)(group, program)
        kinds = [kind for run in program.runs for kind in run]
        found |= {f"{way}: {kind}": why or docs.KERNEL for way in docs.OPS[group.op].directions for kind in kinds}
    assert set(found) == set(group.cells())
    if RECORD:
        record(pathlib.Path(RECORD), str(group), found)
    else:
        assert json.loads(docs.OUTCOMES.read_text())[str(group)] == found, "record again, see docs/kernels.py"


def record(path: pathlib.Path, group: str, found: dict[str, str]) -> None:
    """One line a group, in the order of the table."""
    outcomes = (json.loads(path.read_text()) if path.exists() else {}) | {group: found}
    lines = [f"{json.dumps(str(g))}: {json.dumps(outcomes[str(g)])}" for g in docs.groups() if str(g) in outcomes]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def test_the_page_is_made_of_what_was_found_and_lacks_no_cell():
    outcomes = json.loads(docs.OUTCOMES.read_text())
    assert list(outcomes) == [str(group) for group in docs.groups()]
    assert all(set(outcomes[str(group)]) == set(group.cells()) for group in docs.groups())
    assert docs.OUTCOMES.with_suffix(".md").read_text() == docs.render(outcomes), (
        "run `python -m docs.kernels > docs/kernels.md`"
    )


def test_what_was_found_is_what_the_backends_say_today():
    outcomes = json.loads(docs.OUTCOMES.read_text())
    for group in docs.groups():
        for program in PROGRAMS[group.op](group):
            outcome = reason(group, program) or docs.KERNEL
            assert {outcomes[str(group)][f"forward: {kind}"] for run in program.runs for kind in run} == {outcome}, (
                group
            )


def test_a_fallback_is_told_once_with_its_reason(caplog):
    group = docs.Group("interval_attention", 96, "bfloat16", "gpu")
    (program, _) = attention_programs(group)
    backend._say_once.cache_clear()
    with caplog.at_level(logging.WARNING), backend.emulate("gpu"):
        for _ in range(2):
            jax.eval_shape(program.call, *program.wrt)
    assert [record.message.partition(", since ")[2] for record in caplog.records] == [reason(group, program)]
