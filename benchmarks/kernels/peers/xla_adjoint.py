"""`lax.associative_scan` with the adjoint written as a second scan: what a careful user would make of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from benchmarks.kernels import run_jax as run
from benchmarks.kernels.cases import Scan
from benchmarks.kernels.peers.xla import associative_scan

__all__ = ["run", "scan"]


def scan(case: Scan):
    del case
    return lambda constants, *planes: _scan(constants["keep"], *planes)


@jax.custom_vjp
def _scan(keep_BT, a_re, a_im, x_re, x_im):
    keep_BT1 = keep_BT[..., None]
    return associative_scan(a_re * keep_BT1, a_im * keep_BT1, x_re, x_im)


def _forward(keep_BT, a_re, a_im, x_re, x_im):
    h = _scan(keep_BT, a_re, a_im, x_re, x_im)
    return h, (keep_BT, a_re, a_im, *h)


def _backward(residuals, d_h):
    """g_t = d_t + conj(a) keep_{t+1} g_{t+1}; the gradient of a is the sum of g_t conj(keep_t h_{t-1})."""
    keep_BT, a_re, a_im, h_re, h_im = residuals
    after_BT1 = jnp.pad(keep_BT[:, 1:], ((0, 0), (0, 1)))[..., None]
    g_re, g_im = associative_scan(a_re * after_BT1, -a_im * after_BT1, *d_h, reverse=True)
    first = ((0, 0), (1, 0), (0, 0))
    before_re, before_im = (jnp.pad(h[:, :-1], first) * keep_BT[..., None] for h in (h_re, h_im))
    d_a_re = jnp.sum(g_re * before_re + g_im * before_im, axis=(0, 1))
    d_a_im = jnp.sum(g_im * before_re - g_re * before_im, axis=(0, 1))
    return jnp.zeros_like(keep_BT), d_a_re, d_a_im, g_re, g_im


_scan.defvjp(_forward, _backward)
