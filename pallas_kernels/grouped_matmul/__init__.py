"""Every row times the matrix of its group: the feed-forward of a dropless mixture of experts."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from pallas_kernels import backend as backends

__all__ = ["grouped_matmul"]


def grouped_matmul(
    x_MD: jax.Array, w_EDF: jax.Array, group_sizes_E: jax.Array, *, backend: backends.Backend = "auto"
) -> jax.Array:
    """y_m = x_m w_{group of m}, rows sorted by group (MegaBlocks, arXiv 2211.15841).

    Products are summed in float32 and rounded once to the dtype of x; so are both gradients, each to its own dtype.

    Args:
        x_MD: rows of group 0, then of group 1 and so on; at the end rows of no group.
        w_EDF: one matrix per group, in the dtype of x.
        group_sizes_E: int32, rows of each group, 0 allowed. Their sum must not exceed M.
        backend: "auto" or the one that must be used, see `pallas_kernels.backend.select`.

    Returns:
        y_MF; rows of no group are 0 and give no gradient. Differentiable in x and w, by reverse mode only.

    Raises:
        ValueError: shapes or dtypes that do not fit together, or a forced backend that cannot serve the call.
    """
    if x_MD.ndim != 2 or w_EDF.ndim != 3 or x_MD.shape[1] != w_EDF.shape[1] or x_MD.dtype != w_EDF.dtype:
        raise ValueError(
            f"x, w: got {x_MD.dtype}{list(x_MD.shape)}, {w_EDF.dtype}{list(w_EDF.shape)}; allowed are [M,D] and "
            "[E,D,F] of one dtype. Reshape or cast them before the call."
        )
    if group_sizes_E.shape != w_EDF.shape[:1] or not jnp.issubdtype(group_sizes_E.dtype, jnp.integer):
        raise ValueError(
            f"group_sizes: got {group_sizes_E.dtype}{list(group_sizes_E.shape)}; allowed is int32[{w_EDF.shape[0]}], "
            "the number of rows of each matrix of w."
        )
    return _multiply(x_MD, w_EDF, group_sizes_E, backends.select("grouped_matmul", backend, x_MD, w_EDF))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _multiply(x_MD, w_EDF, group_sizes_E, name):
    return backends.module("grouped_matmul", name).forward(x_MD, w_EDF, group_sizes_E)


def _multiply_forward(x_MD, w_EDF, group_sizes_E, name):
    return _multiply(x_MD, w_EDF, group_sizes_E, name), (x_MD, w_EDF, group_sizes_E)


def _multiply_backward(name, residuals, d_y_MF):
    return (*backends.module("grouped_matmul", name).backward(*residuals, d_y_MF), None)


_multiply.defvjp(_multiply_forward, _multiply_backward)
