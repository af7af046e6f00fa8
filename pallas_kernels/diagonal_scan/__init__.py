"""The linear recurrence of a diagonal state-space model, restarted wherever a segment begins."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from pallas_kernels import backend as backends

__all__ = ["diagonal_scan"]

State = tuple[jax.Array, jax.Array]  # real and imaginary plane, float32[B,N]


def diagonal_scan(
    a_re: jax.Array,
    a_im: jax.Array,
    x_re_BTN: jax.Array,
    x_im_BTN: jax.Array,
    keep_BT: jax.Array,
    h0: State | None = None,
    *,
    backend: backends.Backend = "auto",
) -> tuple[jax.Array, jax.Array, State]:
    """h_t = a_t keep_t h_{t-1} + x_t over complex channels, each number as a real and an imaginary plane.

    The resettable scan of arXiv 2303.03982, its reset as a zero multiplier: keep_t = 0 drops the previous state, h0
    included, before step t reads it.

    Args:
        a_re, a_im: coefficient, [N] for all steps or [B,T,N] for each.
        x_re_BTN, x_im_BTN: what enters the state.
        keep_BT: 0 where a segment begins, else 1; a constant, without gradient.
        h0: state before the first step, (re_BN, im_BN); zero if None.
        backend: "auto" or the one that must be used, see `pallas_kernels.backend.select`.

    Returns:
        h_re_BTN, h_im_BTN and the last state, ready to be the next call's h0; all float32, in which all is computed.
        Differentiable in a, x and h0, by reverse mode only.

    Raises:
        ValueError: shapes that do not fit together, or a forced backend that cannot serve the call.
    """
    x_shape = x_re_BTN.shape
    if len(x_shape) != 3 or x_im_BTN.shape != x_shape or keep_BT.shape != x_shape[:2]:
        raise ValueError(
            f"x_re, x_im, keep: got {x_shape}, {x_im_BTN.shape}, {keep_BT.shape}; allowed are [B,T,N], [B,T,N], [B,T]. "
            "Reshape them before the call."
        )
    if a_re.shape != a_im.shape or a_re.shape not in (x_shape, x_shape[2:]):
        raise ValueError(
            f"a_re, a_im: got {a_re.shape}, {a_im.shape}; allowed is {x_shape[2:]} for all steps or {x_shape} for "
            "each. Broadcast the coefficient to one of them."
        )
    a = (a_re.astype(jnp.float32), a_im.astype(jnp.float32))
    x_BTN = (x_re_BTN.astype(jnp.float32), x_im_BTN.astype(jnp.float32))
    if h0 is None:
        h0 = (jnp.zeros_like(x_BTN[0][:, 0]), jnp.zeros_like(x_BTN[1][:, 0]))
    name = backends.select("diagonal_scan", backend, a, x_BTN)
    h_re_BTN, h_im_BTN = _scan(a, x_BTN, keep_BT.astype(jnp.float32), h0, name)
    return h_re_BTN, h_im_BTN, (h_re_BTN[:, -1], h_im_BTN[:, -1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _scan(a, x_BTN, keep_BT, h0_BN, name):
    return backends.module("diagonal_scan", name).forward(a, x_BTN, keep_BT, h0_BN)


def _scan_forward(a, x_BTN, keep_BT, h0_BN, name):
    h_BTN = _scan(a, x_BTN, keep_BT, h0_BN, name)
    return h_BTN, (a, keep_BT, h0_BN, h_BTN)


def _scan_backward(name, residuals, d_h_BTN):
    d_a, d_x_BTN, d_h0_BN = backends.module("diagonal_scan", name).backward(*residuals, d_h_BTN)
    return d_a, d_x_BTN, None, d_h0_BN


_scan.defvjp(_scan_forward, _scan_backward)
