"""What JAX itself offers: `lax.associative_scan`, `lax.ragged_dot`, and for the ceilings a product and a copy."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from benchmarks.kernels import run_jax as run
from benchmarks.kernels.cases import Copy, Experts, GroupedMatmul, Matmul, Scan
from benchmarks.kernels.peers.ours import swiglu_with

__all__ = ["associative_scan", "copy", "experts", "grouped_matmul", "matmul", "run", "scan"]


def scan(case: Scan):
    """S5's parallel scan, its reset folded into the coefficient; differentiated by JAX."""
    del case

    def function(constants, a_re, a_im, x_re, x_im):
        keep_BT1 = constants["keep"][..., None]
        return associative_scan(a_re * keep_BT1, a_im * keep_BT1, x_re, x_im)

    return function


def associative_scan(a_re, a_im, x_re, x_im, reverse: bool = False):
    """h_t = a_t h_{t-1} + x_t over axis 1. Planes instead of complex numbers: no copy before it, the same traffic."""

    def combine(first, second):
        a_re, a_im, x_re, x_im = first
        b_re, b_im, y_re, y_im = second
        a = (a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re)
        return *a, b_re * x_re - b_im * x_im + y_re, b_re * x_im + b_im * x_re + y_im

    return jax.lax.associative_scan(combine, (a_re, a_im, x_re, x_im), axis=1, reverse=reverse)[2:]


def grouped_matmul(case: GroupedMatmul):
    del case
    return lambda constants, x, w: jax.lax.ragged_dot(x, w, constants["sizes"])


def experts(case: Experts):
    del case
    return swiglu_with(jax.lax.ragged_dot)


def matmul(case: Matmul):
    del case
    return lambda _, x, w: x @ w


def copy(case: Copy):
    del case
    return lambda _, x: jnp.copy(x)
