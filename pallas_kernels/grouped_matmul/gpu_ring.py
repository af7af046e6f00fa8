"""What the Hopper kernels of the grouped matmul share: a persistent loop over tiles, and tiles of operands in flight.

A block runs three warpgroups. The third streams pairs of operand tiles into a ring in shared memory and runs ahead of
the other two, also from one output tile into the next; those multiply, each its 64 rows of the 128 x 256 output tile.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import backend

NUM_COMPUTE = 2  # warpgroups that multiply; one more loads
ROWS_EACH = 64
ROW_TILE = NUM_COMPUTE * ROWS_EACH
ROW_ALIGN = 8  # copies into the ring begin at multiples of it
DEPTH = 64  # of the contraction in one stage: 128 bytes, the widest swizzle
NUM_STAGES = 4
CHUNK = 64  # columns that are stored at once


def col_tile(num_cols: int) -> int:
    """Columns of an output tile."""
    return 256 if num_cols % 256 == 0 else 128


def align(row: jax.Array) -> jax.Array:
    """Row at which the tile lies that has this first row."""
    return lax.div(row, jnp.int32(ROW_ALIGN)) * ROW_ALIGN


def pad_rows(x_MI: jax.Array) -> jax.Array:
    """Add rows of no group where the copy engine needs them: rows come in eights, and at least a tile of them."""
    M = x_MI.shape[0]
    return jnp.pad(x_MI, ((0, max(-M % ROW_ALIGN, ROW_TILE - M)), (0, 0)))


@dataclasses.dataclass(frozen=True)
class Ring:
    """Stages of both operands; stage `step % NUM_STAGES` holds step `step` of the block's whole sequence of steps."""

    lhs: Any
    rhs: Any
    full: Any
    consumed: Any

    @staticmethod
    def allocation(lhs: tuple[int, int], rhs: tuple[int, int], dtype: Any) -> dict[str, Any]:
        """Arguments of `pl.run_scoped` for a ring of operand tiles of these shapes."""
        transforms = _swizzled(8)  # as the tensor cores read it
        return {
            "lhs": plgpu.SMEM((NUM_STAGES, *lhs), dtype, transforms=transforms),
            "rhs": plgpu.SMEM((NUM_STAGES, *rhs), dtype, transforms=transforms),
            "full": plgpu.Barrier(num_arrivals=2, num_barriers=NUM_STAGES),
            "consumed": plgpu.Barrier(num_arrivals=NUM_COMPUTE, num_barriers=NUM_STAGES),
        }

    def load(self, step: jax.Array, lhs: Any, rhs: Any) -> None:
        """Copy both tiles in for `step`, as soon as its stage is free."""
        stage = _stage(step)
        pl.when(step >= NUM_STAGES)(lambda: plgpu.barrier_wait(self.consumed.at[stage]))
        plgpu.copy_gmem_to_smem(lhs, self.lhs.at[stage], self.full.at[stage])
        plgpu.copy_gmem_to_smem(rhs, self.rhs.at[stage], self.full.at[stage])

    def drain(self, num_steps: jax.Array) -> None:
        """Wait until everything loaded is consumed."""

        @pl.loop(jnp.maximum(num_steps - NUM_STAGES, 0), num_steps)
        def _(step):
            plgpu.barrier_wait(self.consumed.at[_stage(step)])

    def multiply(
        self,
        shape: tuple[int, int],
        step: jax.Array,
        num_steps: jax.Array,
        operands: Callable[[jax.Array, jax.Array], Any],
    ) -> jax.Array:
        """Sum the products of the `num_steps` steps from `step` on; `operands(k, stage)` gives the refs of the k-th."""

        def accumulate(acc):
            @pl.loop(0, num_steps)
            def _(k):
                stage = _stage(step + k)
                plgpu.barrier_wait(self.full.at[stage])
                plgpu.wgmma(acc, *operands(k, stage))
                plgpu.wgmma_wait(1)  # the product before this one is done
                pl.when(k > 0)(lambda: plgpu.barrier_arrive(self.consumed.at[_stage(step + k - 1)]))

            plgpu.wgmma_wait(0)
            pl.when(num_steps > 0)(lambda: plgpu.barrier_arrive(self.consumed.at[_stage(step + num_steps - 1)]))
            return acc[...]

        return pl.run_scoped(accumulate, plgpu.ACC(shape))


def _stage(step: jax.Array) -> jax.Array:
    return lax.rem(step, jnp.int32(NUM_STAGES))


def for_each_tile(num_tiles: jax.Array | int, body: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """Run `body(tile, step) -> next step` for this block's share of the tiles; return how many steps that took."""
    block, num_blocks = lax.axis_index("sm"), lax.axis_size("sm")
    share = lax.div(jnp.int32(num_tiles) - block + num_blocks - 1, jnp.int32(num_blocks))
    return lax.fori_loop(0, share, lambda i, step: body(block + i * num_blocks, step), jnp.int32(0))


def chunks_allocation(dtype: Any) -> plgpu.GPUMemoryRef:
    """Shared memory through which the warpgroups store, two chunks each; any of their rows may begin a copy."""
    return plgpu.SMEM((NUM_COMPUTE, 2, ROWS_EACH, CHUNK), dtype, transforms=_swizzled(1))


def _swizzled(rows: int) -> Any:
    """Layout of 128 bytes of each row, without bank conflicts; copies begin at multiples of `rows`."""
    return plgpu.TilingTransform((rows, 64)), plgpu.SwizzleTransform(128)  # pyright: ignore[reportAbstractUsage]


def store(tile: jax.Array, chunks: Any, out: Any, row: jax.Array, first: jax.Array, end: jax.Array) -> None:
    """Write a tile of 64 rows to `out` from `row` on, but only the rows in [first, end). Does not wait for the last."""
    first, end = jnp.maximum(first, row), jnp.minimum(end, row + ROWS_EACH)

    @pl.when(first < end)
    def _():
        for c in range(tile.shape[1] // CHUNK):
            cols, chunk = slice(c * CHUNK, (c + 1) * CHUNK), chunks.at[c % 2]
            plgpu.wait_smem_to_gmem(1, wait_read_only=True)  # for the copy that used this chunk before
            chunk[...] = tile[:, cols]
            plgpu.commit_smem()
            _copy_rows(chunk, out.at[:, cols], row, first, end - first)


def _copy_rows(chunk: Any, out: Any, row: jax.Array, first: jax.Array, num_rows: jax.Array) -> None:
    """Copy the rows from `first` on. The shape of a copy is fixed: one for each power of two in `num_rows`."""
    for size in (1 << bit for bit in range(ROWS_EACH.bit_length())):
        begin = first + (num_rows & ~jnp.int32(2 * size - 1))  # the larger powers come before
        copy = functools.partial(
            plgpu.copy_smem_to_gmem, chunk.at[pl.ds(begin - row, size)], out.at[pl.ds(begin, size)]
        )
        pl.when((num_rows & size) != 0)(copy)


def kernel(body: Callable[..., None], out_type: jax.ShapeDtypeStruct) -> Callable[..., jax.Array]:
    """One block on every multiprocessor; axes "sm" and "wg"."""
    return plgpu.kernel(
        body,
        out_type=out_type,
        grid=(_num_multiprocessors(),),
        grid_names=("sm",),
        num_threads=NUM_COMPUTE + 1,
        thread_name="wg",
    )


def _num_multiprocessors() -> int:
    if backend.emulating():
        return 2
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.num_cores if device is not None else getattr(jax.local_devices()[0], "core_count", 132)
