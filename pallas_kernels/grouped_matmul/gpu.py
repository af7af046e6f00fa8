"""Grouped matmul on Hopper (sm_90a) in Mosaic GPU: rows times the matrix of their group, and the gradients.

Tiles of rows begin where groups begin, so that every tile multiplies one matrix, and only the first and the last of a
group store fewer rows than they compute. Tiles that run at the same time share rows and matrices in the L2 cache.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.grouped_matmul import tiles
from pallas_kernels.grouped_matmul.gpu_ring import (
    DEPTH,
    NUM_COMPUTE,
    ROW_ALIGN,
    ROW_TILE,
    ROWS_EACH,
    Ring,
    align,
    chunks_allocation,
    col_tile,
    for_each_tile,
    kernel,
    pad_rows,
    store,
)
from pallas_kernels.grouped_matmul.gpu_weight_gradient import weight_gradient

__all__ = ["backward", "forward", "unsupported"]

BAND = 8  # column tiles that a band of tiles of rows visits together: 2,048 columns of a matrix fit in the L2 cache


def unsupported(x_MD: jax.Array, w_EDF: jax.Array) -> str | None:
    """Why these arrays need another backend, or None."""
    if x_MD.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it multiplies bfloat16 and float16, not {x_MD.dtype}"
    _, D, F = w_EDF.shape
    if D % 128 or F % 128:
        return f"D and F must be multiples of 128, not {D} and {F}"
    return None


def forward(x_MD: jax.Array, w_EDF: jax.Array, group_sizes_E: jax.Array) -> jax.Array:
    """Return y_MF."""
    return _rows_times(x_MD, w_EDF, group_sizes_E, transposed=False)


def backward(
    x_MD: jax.Array, w_EDF: jax.Array, group_sizes_E: jax.Array, d_y_MF: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the gradients of x and w."""
    d_x_MD = _rows_times(d_y_MF, w_EDF, group_sizes_E, transposed=True)
    return d_x_MD, weight_gradient(x_MD, d_y_MF, group_sizes_E)


def _rows_times(x_MI: jax.Array, w_EDF: jax.Array, group_sizes_E: jax.Array, *, transposed: bool) -> jax.Array:
    """Multiply each row by its group's matrix, or by its transpose, which is read as it lies in memory."""
    M = x_MI.shape[0]
    x_MI = pad_rows(x_MI)
    num_rows, num_cols = x_MI.shape[0], w_EDF.shape[1 if transposed else 2]
    rows = tiles.row_tiles(group_sizes_E, num_rows, tile=ROW_TILE, align=ROW_ALIGN)
    call = kernel(
        functools.partial(_rows_times_kernel, transposed=transposed),
        jax.ShapeDtypeStruct((num_rows, num_cols), x_MI.dtype),
    )
    return call(x_MI, w_EDF, rows.group, rows.first, rows.end, rows.count)[:M]


def _rows_times_kernel(x_MI, w_EDF, group_n, first_n, end_n, count_2, y_MO, *, transposed):
    tile_O = col_tile(y_MO.shape[1])
    num_col_tiles = y_MO.shape[1] // tile_O
    num_depth = x_MI.shape[1] // DEPTH
    num_with_group, num_row_tiles = count_2[0], count_2[1]
    num_tiles = num_row_tiles * num_col_tiles
    w_tile = (tile_O, DEPTH) if transposed else (DEPTH, tile_O)

    def locate(i):
        """Row tile, first column and number of steps of the i-th tile."""
        n, col = _in_bands(i, num_row_tiles, num_col_tiles)
        return n, col * tile_O, jnp.where(n < num_with_group, num_depth, 0)

    def load_tile(ring, i, step):
        n, col, num_steps = locate(i)
        group, rows = group_n[n], pl.ds(align(first_n[n]), ROW_TILE)

        @pl.loop(0, num_steps)
        def _(k):
            cols, depth = pl.ds(col, tile_O), pl.ds(k * DEPTH, DEPTH)
            w = w_EDF.at[group].at[(cols, depth) if transposed else (depth, cols)]
            ring.load(step + k, x_MI.at[rows, depth], w)

        return step + num_steps

    def multiply_tile(ring, chunks, wg, i, step):
        n, col, num_steps = locate(i)
        first, end = first_n[n], end_n[n]

        def operands(_, stage):
            w = ring.rhs.at[stage]
            return ring.lhs.at[stage, pl.ds(wg * ROWS_EACH, ROWS_EACH)], w.transpose((1, 0)) if transposed else w

        y = ring.multiply((ROWS_EACH, tile_O), step, num_steps, operands).astype(y_MO.dtype)
        row = align(first) + wg * ROWS_EACH
        store(y, chunks.at[wg], y_MO.at[:, pl.ds(col, tile_O)], row, first, end)
        return step + num_steps

    def scope(chunks, **ring):
        ring, wg = Ring(**ring), lax.axis_index("wg")

        @pl.when(wg == NUM_COMPUTE)
        def _():
            ring.drain(for_each_tile(num_tiles, functools.partial(load_tile, ring)))

        @pl.when(wg < NUM_COMPUTE)
        def _():
            for_each_tile(num_tiles, functools.partial(multiply_tile, ring, chunks, wg))
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    allocation = Ring.allocation((ROW_TILE, DEPTH), w_tile, x_MI.dtype)
    pl.run_scoped(scope, chunks=chunks_allocation(y_MO.dtype), **allocation, collective_axes="wg")


def _in_bands(i: jax.Array, num_row_tiles: jax.Array, num_col_tiles: int) -> tuple[jax.Array, jax.Array]:
    """Row tile and column tile of the i-th tile: all row tiles of a band of column tiles, then the next band."""
    band = lax.div(i, num_row_tiles * min(BAND, num_col_tiles))
    i -= band * num_row_tiles * BAND
    width = jnp.minimum(num_col_tiles - band * BAND, BAND)
    return lax.div(i, width), band * BAND + lax.rem(i, width)
