"""Gradient of the grouped matmul's matrices on Hopper: x^T d_y over the rows of each group.

A block holds 128 x 256 entries of one group's matrix in registers while the group's rows pass by, as in a dense matmul.
Only a group's first and last step can meet rows of its neighbours: there x is set to zero.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.grouped_matmul.gpu_ring import (
    DEPTH,
    NUM_COMPUTE,
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


def weight_gradient(x_MD: jax.Array, d_y_MF: jax.Array, group_sizes_E: jax.Array) -> jax.Array:
    """Return d_w_EDF in the dtype of x."""
    x_MD, d_y_MF = pad_rows(x_MD), pad_rows(d_y_MF)
    sizes_E = group_sizes_E.astype(jnp.int32)
    first_E = jnp.cumsum(sizes_E) - sizes_E
    # Largest groups first: tiles that run at the same time then take about the same time.
    order_E = jnp.argsort(-sizes_E).astype(jnp.int32)
    shape = (sizes_E.size, x_MD.shape[1], d_y_MF.shape[1])
    call = kernel(_kernel, jax.ShapeDtypeStruct(shape, x_MD.dtype))
    return call(x_MD, d_y_MF, order_E, first_E, sizes_E)


def _kernel(x_MD, d_y_MF, order_E, first_E, sizes_E, d_w_EDF):
    E, D, F = d_w_EDF.shape
    tile_F = col_tile(F)
    num_F = F // tile_F
    tiles_each = D // ROW_TILE * num_F

    def locate(i):
        """Group, first row and column of d_w, and number of steps of the i-th tile."""
        group, i = order_E[lax.div(i, tiles_each)], lax.rem(i, tiles_each)
        first, size = first_E[group], sizes_E[group]
        num_steps = jnp.where(size > 0, lax.div(first + size - align(first) + DEPTH - 1, jnp.int32(DEPTH)), 0)
        return group, lax.div(i, num_F) * ROW_TILE, lax.rem(i, num_F) * tile_F, num_steps

    def load_tile(ring, i, step):
        group, row, col, num_steps = locate(i)
        begin = align(first_E[group])

        @pl.loop(0, num_steps)
        def _(k):
            depth = pl.ds(begin + k * DEPTH, DEPTH)
            ring.load(step + k, x_MD.at[depth, pl.ds(row, ROW_TILE)], d_y_MF.at[depth, pl.ds(col, tile_F)])

        return step + num_steps

    def multiply_tile(ring, chunks, wg, i, step):
        group, row, col, num_steps = locate(i)
        first, end = first_E[group], first_E[group] + sizes_E[group]

        def operands(k, stage):
            x = ring.lhs.at[stage, :, pl.ds(wg * ROWS_EACH, ROWS_EACH)]
            begin = align(first) + k * DEPTH
            pl.when((begin < first) | (begin + DEPTH > end))(lambda: _keep_rows(x, first - begin, end - begin))
            return x.transpose((1, 0)), ring.rhs.at[stage]

        d_w = ring.multiply((ROWS_EACH, tile_F), step, num_steps, operands).astype(d_w_EDF.dtype)
        row += wg * ROWS_EACH
        store(d_w, chunks.at[wg], d_w_EDF.at[group, :, pl.ds(col, tile_F)], row, row, row + ROWS_EACH)
        return step + num_steps

    def scope(chunks, **ring):
        ring, wg = Ring(**ring), lax.axis_index("wg")

        @pl.when(wg == NUM_COMPUTE)
        def _():
            ring.drain(for_each_tile(E * tiles_each, functools.partial(load_tile, ring)))

        @pl.when(wg < NUM_COMPUTE)
        def _():
            for_each_tile(E * tiles_each, functools.partial(multiply_tile, ring, chunks, wg))
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    allocation = Ring.allocation((DEPTH, ROW_TILE), (DEPTH, tile_F), x_MD.dtype)
    pl.run_scoped(scope, chunks=chunks_allocation(d_w_EDF.dtype), **allocation, collective_axes="wg")


def _keep_rows(x, first: jax.Array, end: jax.Array) -> None:
    """Set the other rows to zero in this warpgroup's columns of a tile in shared memory."""
    rows = plgpu.broadcasted_iota(jnp.int32, x.shape, 0, layout=plgpu.Layout.WGMMA)
    x[...] = jnp.where((first <= rows) & (rows < end), x[...], jnp.zeros_like(x[...]))
    plgpu.commit_smem()
