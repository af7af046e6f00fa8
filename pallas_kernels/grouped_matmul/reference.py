"""Grouped matmul in plain JAX: a loop over tiles of rows, each within one group.

Fastest exact form on a CPU, since it multiplies every row once. Forward and backward at M = 4096, D = 128, F = 256,
E = 8 in float32: tiles 6 ms (one dense matmul 2.4), a masked matmul per group 15, groups padded to M rows 40,
`lax.ragged_dot` 70.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

_TILE = 128


def forward(x_MD: jax.Array, w_EDF: jax.Array, group_sizes_E: jax.Array) -> jax.Array:
    """Return y_MF."""
    return _rows_times(x_MD, w_EDF, group_sizes_E, contract=1)


def backward(
    x_MD: jax.Array, w_EDF: jax.Array, group_sizes_E: jax.Array, d_y_MF: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the gradients of x and w."""
    d_x_MD = _rows_times(d_y_MF, w_EDF, group_sizes_E, contract=2).astype(x_MD.dtype)
    M = x_MD.shape[0]
    tile = min(_TILE, M)
    x_pad, d_y_pad = _pad(x_MD, tile), _pad(d_y_MF, tile)

    def step(group, row, inside_m1, d_w_EDF):
        x_mD = jnp.where(inside_m1, lax.dynamic_slice_in_dim(x_pad, row, tile), 0)
        d_y_mF = lax.dynamic_slice_in_dim(d_y_pad, row, tile)
        d_w_DF = lax.dynamic_index_in_dim(d_w_EDF, group, keepdims=False)
        d_w_DF += jnp.matmul(x_mD.T, d_y_mF, preferred_element_type=jnp.float32)
        return lax.dynamic_update_index_in_dim(d_w_EDF, d_w_DF, group, 0)

    d_w_EDF = _over_tiles(step, jnp.zeros_like(w_EDF, jnp.float32), group_sizes_E, tile)
    return d_x_MD, d_w_EDF.astype(w_EDF.dtype)


def _rows_times(x_MI: jax.Array, w_EDF: jax.Array, group_sizes_E: jax.Array, *, contract: int) -> jax.Array:
    """Multiply each row by its group's matrix over dim `contract` of w."""
    M = x_MI.shape[0]
    tile = jax.core.min_dim(_TILE, M)  # M may be a symbol of `jax.export`
    x_pad = _pad(x_MI, tile)

    def step(group, row, inside_m1, y_pad):
        x_mI = lax.dynamic_slice_in_dim(x_pad, row, tile)
        w_DF = lax.dynamic_index_in_dim(w_EDF, group, keepdims=False)
        y_mO = lax.dot_general(x_mI, w_DF, (((1,), (contract - 1,)), ((), ())), preferred_element_type=jnp.float32)
        # The rows past the group's end are overwritten by the next group's first tile, or stay 0 after the last.
        return lax.dynamic_update_slice_in_dim(y_pad, jnp.where(inside_m1, y_mO, 0).astype(y_pad.dtype), row, 0)

    y_pad = jnp.zeros_like(x_MI, shape=(M + tile, w_EDF.shape[3 - contract]))
    return _over_tiles(step, y_pad, group_sizes_E, tile)[:M]


def _over_tiles(step: Callable, carry: jax.Array, group_sizes_E: jax.Array, tile: int) -> jax.Array:
    """Fold `step(group, first row, which rows belong to it, carry)` over the tiles of all groups in row order."""
    end_E = jnp.cumsum(group_sizes_E)
    tiles_E = (group_sizes_E + tile - 1) // tile
    tiles_end_E = jnp.cumsum(tiles_E)

    def body(i, carry):
        group = jnp.sum(tiles_end_E <= i)
        row = end_E[group] - group_sizes_E[group] + (i - tiles_end_E[group] + tiles_E[group]) * tile
        inside_m1 = (row + jnp.arange(tile) < end_E[group])[:, None]
        return step(group, row, inside_m1, carry)

    return lax.fori_loop(0, tiles_end_E[-1], body, carry)


def _pad(x_MI: jax.Array, tile: int) -> jax.Array:
    """Add a tile of rows, so that a tile which begins at the last row still fits."""
    return jnp.pad(x_MI, ((0, tile), (0, 0)))
