"""Grouped matmul on TPU (Mosaic), after megablox: a grid over tiles of rows, listed once for each group they hold.

Scalars fetched ahead of the grid name each step's group, so that its matrix is on its way while the step before
computes. Where a tile of rows holds several groups, each visit keeps what the others wrote: the block stays in VMEM.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.grouped_matmul import tiles

__all__ = ["backward", "forward", "unsupported"]

MAX_ROW_TILE = 512
MAX_BYTES_WIDE = 4096  # of a block's row: a matrix of 2,048 x 2,048 bfloat16 is one block
VMEM_BYTES = 56 * 2**20  # v7x has 64 MiB


def unsupported(x_MD: jax.Array, w_EDF: jax.Array) -> str | None:
    """Why these arrays need another backend, or None."""
    if x_MD.dtype not in (jnp.bfloat16, jnp.float32):
        return f"it multiplies bfloat16 and float32, not {x_MD.dtype}"
    _, D, F = w_EDF.shape
    if D % 128 or F % 128:
        return f"D and F must be multiples of 128, not {D} and {F}"
    return None


def forward(x_MD: jax.Array, w_EDF: jax.Array, group_sizes_E: jax.Array) -> jax.Array:
    """Return y_MF."""
    return _rows_times(x_MD, w_EDF, group_sizes_E, contract=1)


def backward(
    x_MD: jax.Array, w_EDF: jax.Array, group_sizes_E: jax.Array, d_y_MF: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the gradients of x and w."""
    return _rows_times(d_y_MF, w_EDF, group_sizes_E, contract=2), _weight_gradient(x_MD, d_y_MF, group_sizes_E)


def _rows_times(x_MI: jax.Array, w_EDF: jax.Array, group_sizes_E: jax.Array, *, contract: int) -> jax.Array:
    """Multiply each row by its group's matrix over dim `contract` of w."""
    M, dim_I, dim_O = x_MI.shape[0], w_EDF.shape[contract], w_EDF.shape[3 - contract]
    E, tile = w_EDF.shape[0], _row_tile(M, w_EDF.shape[0])
    tile_I, tile_O = _width(dim_I, x_MI.dtype), _width(dim_O, x_MI.dtype)
    rows = tiles.row_tiles(group_sizes_E, M, tile=tile, align=tile)

    def x_block(o, n, i, group_n, first_n, end_n, count_2):
        return first_n[n] // tile, jnp.where(n < count_2[0], i, 0)

    def w_block(o, n, i, group_n, first_n, end_n, count_2):
        i = jnp.where(n < count_2[0], i, 0)  # rows of no group ask for no more than one block of the last matrix
        return jnp.minimum(group_n[n], E - 1), *((i, o) if contract == 1 else (o, i))

    def y_block(o, n, i, group_n, first_n, end_n, count_2):
        return first_n[n] // tile, o

    return pl.pallas_call(
        functools.partial(_rows_times_kernel, contract=contract),
        out_shape=jax.ShapeDtypeStruct((M, dim_O), x_MI.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(dim_O // tile_O, rows.count[1], dim_I // tile_I),
            in_specs=[
                pl.BlockSpec((tile, tile_I), x_block),
                pl.BlockSpec((None, *((tile_I, tile_O) if contract == 1 else (tile_O, tile_I))), w_block),
            ],
            out_specs=pl.BlockSpec((tile, tile_O), y_block),
            scratch_shapes=[pltpu.VMEM((tile, tile_O), jnp.float32)],
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        cost_estimate=_cost(M, dim_I, dim_O, E, x_MI.dtype),
        name="grouped_matmul" if contract == 1 else "grouped_matmul_transposed",
    )(rows.group, rows.first, rows.end, rows.count, x_MI, w_EDF)


def _rows_times_kernel(group_n, first_n, end_n, count_2, x_mI, w, y_mO, sum_mO, *, contract):
    n, i = pl.program_id(1), pl.program_id(2)
    has_group = n < count_2[0]

    @pl.when(has_group)
    def _():
        product_mO = _dot(x_mI[...], w[...], 1, contract - 1)
        sum_mO[...] = jnp.where(i == 0, product_mO, sum_mO[...] + product_mO)

    @pl.when(i == pl.num_programs(2) - 1)
    def _():
        y = jnp.where(has_group, sum_mO[...], 0).astype(y_mO.dtype)
        y_mO[...] = jnp.where(_own_rows(n, first_n, end_n, y_mO.shape), y, y_mO[...])


def _weight_gradient(x_MD: jax.Array, d_y_MF: jax.Array, group_sizes_E: jax.Array) -> jax.Array:
    """Return d_w_EDF: x^T d_y over the rows of each group, which pass by one block of d_w."""
    (M, D), F, E = x_MD.shape, d_y_MF.shape[1], group_sizes_E.shape[0]
    tile, tile_D, tile_F = _row_tile(M, E), _width(D, x_MD.dtype), _width(F, x_MD.dtype)
    rows = tiles.row_tiles(group_sizes_E, M, tile=tile, align=tile, min_per_group=1)

    def x_block(d, f, n, group_n, first_n, end_n, count_2):
        return jnp.minimum(first_n[n], M - 1) // tile, d

    def d_y_block(d, f, n, group_n, first_n, end_n, count_2):
        return jnp.minimum(first_n[n], M - 1) // tile, f

    def d_w_block(d, f, n, group_n, first_n, end_n, count_2):
        return group_n[n], d, f

    return pl.pallas_call(
        _weight_gradient_kernel,
        out_shape=jax.ShapeDtypeStruct((E, D, F), x_MD.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(D // tile_D, F // tile_F, rows.count[0]),
            in_specs=[pl.BlockSpec((tile, tile_D), x_block), pl.BlockSpec((tile, tile_F), d_y_block)],
            out_specs=pl.BlockSpec((None, tile_D, tile_F), d_w_block),
            scratch_shapes=[pltpu.VMEM((tile_D, tile_F), jnp.float32)],
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        cost_estimate=_cost(M, D, F, E, x_MD.dtype),
        name="grouped_matmul_weight_gradient",
    )(rows.group, rows.first, rows.end, rows.count, x_MD, d_y_MF)


def _weight_gradient_kernel(group_n, first_n, end_n, count_2, x_mD, d_y_mF, d_w_DF, sum_DF):
    n, tile = pl.program_id(2), x_mD.shape[0]
    begins = (n == 0) | (group_n[n] != group_n[jnp.maximum(n - 1, 0)])
    ends = (n == count_2[0] - 1) | (group_n[n] != group_n[jnp.minimum(n + 1, group_n.shape[0] - 1)])
    whole = end_n[n] - first_n[n] == tile

    def accumulate(x, d_y):
        product_DF = _dot(x, d_y, 0, 0)
        sum_DF[...] = jnp.where(begins, product_DF, sum_DF[...] + product_DF)

    pl.when(whole)(lambda: accumulate(x_mD[...], d_y_mF[...]))

    @pl.when(~whole)
    def _():
        # Both: past the last row of the array a block holds anything, and 0 times that need not be 0.
        keep = functools.partial(_own_rows, n, first_n, end_n)
        accumulate(jnp.where(keep(x_mD.shape), x_mD[...], 0), jnp.where(keep(d_y_mF.shape), d_y_mF[...], 0))

    @pl.when(ends)
    def _():
        d_w_DF[...] = sum_DF[...].astype(d_w_DF.dtype)


def _own_rows(n: jax.Array, first_n, end_n, shape: tuple[int, int]) -> jax.Array:
    """Which entries of a tile's block lie in its rows."""
    row = first_n[n] // shape[0] * shape[0] + lax.broadcasted_iota(jnp.int32, shape, 0)
    return (first_n[n] <= row) & (row < end_n[n])


def _dot(a: jax.Array, b: jax.Array, dim_a: int, dim_b: int) -> jax.Array:
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dims = (((dim_a,), (dim_b,)), ((), ()))
    return lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)


def _row_tile(num_rows: int, num_groups: int) -> int:
    """About an eighth of a group's rows: each group costs up to one tile more than its rows fill."""
    eighth = max(num_rows // (8 * num_groups), 1)
    return min(max(128, 1 << eighth.bit_length() - 1), MAX_ROW_TILE)


def _width(size: int, dtype: jnp.dtype) -> int:
    """Largest block along a dim that is a multiple of 128 and divides it."""
    limit = min(size, MAX_BYTES_WIDE // jnp.dtype(dtype).itemsize)
    return max(width for width in range(128, limit + 1, 128) if size % width == 0)


def _cost(M: int, D: int, F: int, E: int, dtype: jnp.dtype) -> pl.CostEstimate:
    entries = M * D + M * F + E * D * F
    return pl.CostEstimate(flops=2 * M * D * F, bytes_accessed=entries * jnp.dtype(dtype).itemsize, transcendentals=0)
