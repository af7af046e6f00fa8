"""Every kernel on the device against its float32 reference, values and gradients, at moderate shapes.

Kernels are forced, so an unsupported combination says so and is no silent fallback. Each operation has a process of its
own: a kernel that poisons the device must not take the others' verdicts with it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.kernels.cases import Scale, normal
from benchmarks.kernels.peers.ours import backend
from benchmarks.kernels.worker import relative_error
from pallas_kernels.decode_attention import decode_attention
from pallas_kernels.diagonal_scan import diagonal_scan
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.interval_attention import interval_attention

TOLERANCE = {"bfloat16": 2e-2, "float32": 1e-4}
MASKS = ("causal", "window", "packed", "prefix", "span", "full", "mixed", "offset")
SECONDS = {"attention": 300.0, "scan": 80.0, "matmul": 80.0, "decode": 80.0}  # together within ten minutes
LEAST_LSE = -100.0  # that of rows without keys, -1e30, would hide all other errors


@dataclasses.dataclass(frozen=True)
class Check:
    """`function(constants, *inputs, backend=...)` gives a tuple; gradients are compared where `differentiate`.

    Checks that share a function and shapes share its compiled programs: masks are arguments.
    """

    name: str
    function: Callable[..., tuple[Any, ...]]
    constants: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str = "bfloat16"
    differentiate: bool = True
    stds: tuple[float, ...] = ()


def errors_of(check: Check) -> dict[str, float]:
    """Relative error of every output and gradient of the device's kernel."""
    stds = check.stds or (1.0,) * len(check.shapes)
    drawn = [normal(f"{check.name}/{i}", *what) for i, what in enumerate(zip(check.shapes, stds, strict=True))]
    inputs = [jnp.asarray(x).astype(check.dtype) for x in drawn]
    actual = _answers(check, backend(), inputs)
    with jax.default_matmul_precision("highest"):
        expected = _answers(check, "reference", [x.astype(jnp.float32) for x in inputs])
    return {name: relative_error(actual[name], expected[name]) for name in expected}


def _answers(check: Check, backend: str, inputs: list[jax.Array]) -> dict[str, np.ndarray]:
    outputs = _forward(check.function, backend)(check.constants, *inputs)
    named = {f"output {i}": x for i, x in enumerate(outputs)}
    if check.differentiate:
        d_outputs = tuple(
            jnp.asarray(normal(f"{check.name}/d{i}", x.shape)).astype(check.dtype).astype(x.dtype)
            for i, x in enumerate(outputs)
        )
        gradients = _backward(check.function, backend)(check.constants, d_outputs, *inputs)
        named |= {f"gradient {i}": x for i, x in enumerate(gradients)}
    return {name: np.asarray(x.astype(jnp.float32)) for name, x in named.items()}


@functools.cache
def _forward(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    return jax.jit(functools.partial(function, backend=backend))


@functools.cache
def _backward(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    def gradients(constants, d_outputs, *inputs):
        return jax.vjp(functools.partial(function, constants, backend=backend), *inputs)[1](d_outputs)

    return jax.jit(gradients)


def interval(kind: str, T: int) -> tuple[np.ndarray, np.ndarray, int]:
    """lo_T, hi_T and the number of keys of one mask; `mixed` has window, segments, a span and padding."""
    t = np.arange(T)
    zero, S = np.zeros_like(t), T + 247 if kind == "offset" else T
    start = np.maximum.accumulate(np.where(np.isin(t, (0, T // 5, T // 5 + 1, T // 2)), t, 0))
    near = np.maximum(t - T // 6 + 1, 0)
    first, end = T // 2 + T // 8, T // 2 + T // 4
    inside = (first <= t) & (t < end)
    bounds = {
        "causal": (zero, t + 1),
        "window": (near, t + 1),
        "packed": (start, t + 1),
        "prefix": (zero, np.maximum(t + 1, T // 3)),
        "span": (zero, np.where(inside, end, t + 1)),
        "full": (zero, zero + S),
        "offset": (zero, t + 1 + S - T),
        "mixed": (
            np.where(t >= T - T // 8, 0, np.maximum(np.where(inside, np.minimum(first, near), near), start)),
            np.where(t >= T - T // 8, 0, np.where(inside, end, t + 1)),
        ),
    }
    return *bounds[kind], S


def attention_checks(scale: Scale) -> Iterator[Check]:
    B, T, H, K = (2, 777, 8, 2) if scale == "full" else (1, 80, 2, 1)
    widths, masks = ((64, 128, 256), MASKS) if scale == "full" else ((64,), ("packed", "offset"))
    for h in widths:
        for mask in masks:
            yield _attention_check(f"{mask} h{h}", mask, (B, T, H, K, h))
        yield _attention_check(f"causal soft-cap h{h}", "causal", (B, T, H, K, h), softcap=5.0)
    yield _attention_check(f"one head each h{widths[0]}", "causal", (B, T, K, K, widths[0]))
    yield _attention_check(f"float32 h{widths[0]}", "causal", (B, T, H, K, widths[0]), dtype="float32")


def _attention_check(name: str, mask: str, sizes: tuple[int, ...], softcap: float | None = None, dtype="bfloat16"):
    B, T, H, K, h = sizes
    lo_T, hi_T, S = interval(mask, T)
    constants = tuple(jnp.broadcast_to(jnp.asarray(x, jnp.int32), (B, T)) for x in (lo_T, hi_T))
    shapes = ((B, T, H, h), (B, S, K, h), (B, S, K, h))
    return Check(f"attention {name}", _attend(softcap), constants, shapes, dtype)


@functools.cache
def _attend(softcap: float | None) -> Callable[..., Any]:
    def attend(constants, q, k, v, *, backend):
        options = {"scale": q.shape[-1] ** -0.5, "softcap": softcap, "backend": backend}
        out, lse = interval_attention(q, k, v, *constants, **options)
        return out, jnp.maximum(lse, LEAST_LSE)

    return attend


def scan_checks(scale: Scale) -> Iterator[Check]:
    B, T, N = (2, 3001, 640) if scale == "full" else (1, 70, 128)
    keep_BT = np.ones((B, T), np.float32)
    keep_BT[:, (0, T // 3, T // 3 + 1, T - 1)] = 0
    for name, shape in (("constant", (N,)), ("per step", (B, T, N))):
        shapes = (shape, shape, (B, T, N), (B, T, N), (B, N), (B, N))
        yield Check(f"scan {name}", _scan, (jnp.asarray(keep_BT),), shapes, "float32")


def _scan(constants, theta, rho, x_re, x_im, h_re, h_im, *, backend):
    radius = jax.nn.sigmoid(4 + rho)
    a = (radius * jnp.cos(theta), radius * jnp.sin(theta))
    h_re, h_im, last = diagonal_scan(*a, x_re, x_im, *constants, (h_re, h_im), backend=backend)
    return h_re, h_im, *last


def matmul_checks(scale: Scale) -> Iterator[Check]:
    D, F, rows = (512, 768, 3000) if scale == "full" else (64, 128, 60)
    spreads = {
        "uneven": (0.30, 0.05, 0.20, 0.0, 0.1501, 0.2999),
        "one group has all": (0.0, 0.0, 1.0, 0.0),
        "empty ends and rows of no group": (0.0, 0.4, 0.31, 0.0),
    }
    for name, spread in spreads.items():
        sizes_E = jnp.asarray([int(share * rows) for share in spread], jnp.int32)
        shapes = ((rows, D), (len(spread), D, F))
        yield Check(f"grouped matmul {name}", _product, (sizes_E,), shapes, stds=(1.0, D**-0.5))


def _product(constants, x, w, *, backend):
    return (grouped_matmul(x, w, *constants, backend=backend),)


def decode_checks(scale: Scale) -> Iterator[Check]:
    B, S, h = (3, 4096, 128) if scale == "full" else (2, 64, 64)
    length_B1 = S + np.arange(B)[:, None] * 37 - 5  # the first sequence leaves slots empty, the others have gone round
    position_BS = length_B1 - 1 - (length_B1 - 1 - np.arange(S)) % S
    for name, T, H, K, window in (
        ("full cache", 1, 16, 8, None),
        ("window", 1, 8, 1, S // 3),
        ("chunk", 4, 8, 4, None),
    ):
        at_BT = length_B1 - T + np.arange(T)
        lo_BT = np.zeros_like(at_BT) if window is None else np.maximum(at_BT - window + 1, 0)
        where = tuple(jnp.asarray(x, jnp.int32) for x in (position_BS, lo_BT, at_BT + 1))
        shapes = ((B, T, H, h), (B, S, K, h), (B, S, K, h))
        yield Check(f"decode {name}", _decode, where, shapes, differentiate=False)


def _decode(constants, q, k, v, *, backend):
    out, lse = decode_attention(q, k, v, *constants, scale=q.shape[-1] ** -0.5, backend=backend)
    return out, jnp.maximum(lse, LEAST_LSE)


OPERATIONS: dict[str, Callable[[Scale], Iterator[Check]]] = {
    "attention": attention_checks,
    "scan": scan_checks,
    "matmul": matmul_checks,
    "decode": decode_checks,
}


def run(operation: str, scale: Scale, out: pathlib.Path) -> list[dict[str, Any]]:
    """Check one operation in this process; the file is written again after each check."""
    found = []
    for check in OPERATIONS[operation](scale):
        try:
            errors = errors_of(check)
            right = all(error <= TOLERANCE[check.dtype] for error in errors.values())
            verdict = {"status": "ok" if right else "wrong", "errors": errors}
        except Exception as error:
            refused = isinstance(error, ValueError) and str(error).startswith("backend:")
            verdict = {"status": "not supported" if refused else "failed", "reason": f"{error}"[:600]}
        worst = f"{max(verdict['errors'].values()):.1e}" if "errors" in verdict else verdict["reason"][:160]
        print(f"{check.name:48} {verdict['status']:14} {worst}", flush=True)
        found.append({"check": check.name, "backend": backend(), **verdict})
        out.write_text(json.dumps(found, indent=1))
    return found


def check(scale: Scale, out: pathlib.Path) -> None:
    """Check all operations, one process each, and write one file. Ends the program with 1 if anything is not right."""
    out.parent.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for operation in OPERATIONS:
        part = out.with_suffix(f".{operation}")
        command = [sys.executable, "-m", "benchmarks.kernels.numerics", operation, scale, str(part)]
        try:
            code = subprocess.run(command, timeout=SECONDS[operation]).returncode
        except subprocess.TimeoutExpired:
            code = "a time limit"
        found += json.loads(part.read_text()) if part.exists() else []
        part.unlink(missing_ok=True)
        if code:
            found.append({"check": operation, "status": "failed", "reason": f"the process ended with {code}"})
    out.write_text(json.dumps(found, indent=1) + "\n")
    counts = {status: sum(entry["status"] == status for entry in found) for status in ("ok", "not supported")}
    bad = [entry["check"] for entry in found if entry["status"] not in counts]
    print(f"{counts['ok']} right, {counts['not supported']} not supported, {len(bad)} wrong or failed: {bad}")
    if bad:
        raise SystemExit(1)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]))  # type: ignore[arg-type]
