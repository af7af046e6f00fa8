"""`pallas_kernels`, the device's own kernel forced, so that no figure is that of a fallback."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.kernels import run_jax as run
from benchmarks.kernels.cases import Attention, Decode, Experts, GroupedMatmul, Scan
from pallas_kernels.backend import Backend
from pallas_kernels.decode_attention import decode_attention
from pallas_kernels.diagonal_scan import diagonal_scan
from pallas_kernels.grouped_matmul import grouped_matmul as matmul
from pallas_kernels.interval_attention import interval_attention

__all__ = ["attention", "backend", "decode", "experts", "grouped_matmul", "run", "scan"]


def backend() -> Backend:
    """The kernels of this process's device; a CPU has the reference only."""
    kernels: dict[str, Backend] = {"gpu": "gpu", "tpu": "tpu"}
    return kernels.get(jax.default_backend(), "reference")


def attention(case: Attention):
    def function(constants, q, k, v):
        lo, hi = constants["lo"], constants["hi"]
        return interval_attention(q, k, v, lo, hi, scale=case.scale, backend=backend())[0]

    return function


def scan(case: Scan):
    del case

    def function(constants, a_re, a_im, x_re, x_im):
        return diagonal_scan(a_re, a_im, x_re, x_im, constants["keep"], backend=backend())[:2]

    return function


def grouped_matmul(case: GroupedMatmul):
    del case
    return lambda constants, x, w: matmul(x, w, constants["sizes"], backend=backend())


def experts(case: Experts):
    del case
    return swiglu_with(functools.partial(matmul, backend=backend()))


def decode(case: Decode):
    def function(constants, q, k, v):
        where = (constants[name] for name in ("position", "lo", "hi"))
        return decode_attention(q, k, v, *where, scale=case.scale, backend=backend())[0]

    return function


def swiglu_with(product: Any):
    """The experts' feed-forward from a `product(x, w, sizes)`; every JAX peer has the same one."""

    def function(constants, x, gate_up, down):
        gate, up = jnp.split(product(x, gate_up, constants["sizes"]), 2, axis=-1)
        return product(jax.nn.silu(gate) * up, down, constants["sizes"])

    return function
