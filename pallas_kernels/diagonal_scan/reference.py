"""The resettable diagonal scan in plain JAX: one step after another, forward and backward.

A sequential loop is the fastest form on a CPU. Forward and backward at B = 8, T = 512 with N = 64, 128, 256 channels
took 0.9, 2.6 and 5.4 ms; `lax.associative_scan` took 7.9, 23 and 43 ms and chunks of 32 steps 2.7, 4.6 and 27 ms.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

Planes = tuple[jax.Array, jax.Array]  # real and imaginary part

_UNROLL = 2  # 4 and more only make the loop body too large for its gain


def forward(a: Planes, x_BTN: Planes, keep_BT: jax.Array, h0_BN: Planes) -> Planes:
    """Return h_BTN of h_t = a_t keep_t h_{t-1} + x_t; a is [N] or [B,T,N]."""

    def step(h_BN, inputs):
        x_BN, keep_B1, a_BN = inputs
        h_re, h_im = _times(a if a_BN is None else a_BN, (h_BN[0] * keep_B1, h_BN[1] * keep_B1))
        h_BN = (h_re + x_BN[0], h_im + x_BN[1])
        return h_BN, h_BN

    _, h_TBN = lax.scan(step, h0_BN, (_swap(x_BTN), keep_BT.T[..., None], _each_step(a)), unroll=_UNROLL)
    return _swap(h_TBN)


def backward(
    a: Planes, keep_BT: jax.Array, h0_BN: Planes, h_BTN: Planes, d_h_BTN: Planes
) -> tuple[Planes, Planes, Planes]:
    """Return the gradients of a, x and h0.

    The gradient g_t of h_t follows the same recurrence in reverse with the conjugate coefficient; it is also that of
    x_t, and conj(keep_t h_{t-1}) g_t is that of a_t.
    """
    keep_TB1 = keep_BT.T[..., None]

    def step(from_later_BN, inputs):
        d_h_BN, keep_B1, a_BN = inputs
        g_BN = (d_h_BN[0] + from_later_BN[0], d_h_BN[1] + from_later_BN[1])
        return _times(_conj(a if a_BN is None else a_BN), (g_BN[0] * keep_B1, g_BN[1] * keep_B1)), g_BN

    zero_BN = (jnp.zeros_like(d_h_BTN[0][:, 0]), jnp.zeros_like(d_h_BTN[1][:, 0]))
    d_h0_BN, g_TBN = lax.scan(step, zero_BN, (_swap(d_h_BTN), keep_TB1, _each_step(a)), reverse=True, unroll=_UNROLL)

    h_TBN = _swap(h_BTN)
    previous_re, previous_im = (jnp.concatenate([h0_BN[i][None], h_TBN[i][:-1]]) * keep_TB1 for i in (0, 1))
    d_a = _times(_conj((previous_re, previous_im)), g_TBN)
    d_a = _swap(d_a) if a[0].ndim == 3 else (d_a[0].sum((0, 1)), d_a[1].sum((0, 1)))
    return d_a, _swap(g_TBN), d_h0_BN


def _each_step(a: Planes) -> Planes | None:
    """Coefficients to scan over, None where one serves all steps."""
    return _swap(a) if a[0].ndim == 3 else None


def _times(x: Planes, y: Planes) -> Planes:
    return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]


def _conj(x: Planes) -> Planes:
    return x[0], -x[1]


def _swap(x: Planes) -> Planes:
    """[B,T,N] <-> [T,B,N]."""
    return jnp.swapaxes(x[0], 0, 1), jnp.swapaxes(x[1], 0, 1)
