"""Gradients of keys and values on Hopper: every tile of keys walks over the queries that attend to it.

Tiles of scores stand with keys as rows, so that probabilities and their gradients are left operands of the products
that sum over queries, straight from registers. All query heads of a key/value head are summed by one block of threads,
in a fixed order: no gradient per query head is stored and two runs agree bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.interval_attention import gpu_dkv_compute as compute
from pallas_kernels.interval_attention import gpu_ring as ring
from pallas_kernels.interval_attention import gpu_tiles as gpu
from pallas_kernels.interval_attention.tiles import query_tiles


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Keys of a block of threads, queries per step, and how many tiles of queries shared memory holds."""

    k_tile: int
    q_tile: int
    stages: int


# Per thread: q_tile registers for scores and their gradients, h for the two results. At width 256 the results alone
# would take all, so there one warpgroup computes the gradient of the values and the other that of the keys.
TILINGS = {64: Tiling(128, 128, 3), 128: Tiling(128, 64, 4), 256: Tiling(64, 64, 2)}
CAPPED_TILINGS = TILINGS | {64: Tiling(128, 64, 4)}  # the derivative of the cap needs registers, too


def d_key_value(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    d_out_BTHh: jax.Array,
    lse2_BHT: jax.Array,
    delta_BHT: jax.Array,
    lo_BT: jax.Array,
    hi_BT: jax.Array,
    *,
    scale: float,
    softcap: float | None,
) -> tuple[jax.Array, jax.Array]:
    """The gradients of k and v. T and S are multiples of 128, lse2 is to base 2 and +1e30 in rows without keys."""
    B, S, K, h = k_BSKh.shape
    tiling, dtype = (TILINGS if softcap is None else CAPPED_TILINGS)[h], k_BSKh.dtype
    ranges = query_tiles(lo_BT, hi_BT, q_tile=tiling.q_tile, k_tile=tiling.k_tile, num_keys=S)
    rows_BHn2t = _pairs(lse2_BHT, delta_BHT, tiling.q_tile)
    bounds_Bn2t = _pairs(lo_BT, hi_BT, tiling.q_tile)
    matrix = gpu.smem((tiling.stages, tiling.q_tile, h), dtype)
    pair = (tiling.stages, 2, tiling.q_tile)
    queries = ring.Ring.scratch(tiling.stages, matrix, plgpu.SMEM(pair, jnp.float32), plgpu.SMEM(pair, jnp.int32))
    d_outs = ring.Ring.scratch(tiling.stages, matrix)
    split = tiling.k_tile == ring.WARPGROUP_ROWS
    scratch = (compute.split_scratch if split else compute.whole_scratch)(tiling.q_tile, h, dtype)
    return plgpu.kernel(
        functools.partial(_kernel, split=split, tiling=tiling, scale=scale, softcap=softcap),
        out_type=(jax.ShapeDtypeStruct(k_BSKh.shape, dtype), jax.ShapeDtypeStruct(k_BSKh.shape, dtype)),
        scratch_types=(queries, d_outs, scratch),
        grid=(
            S // tiling.k_tile,
            B,
            K,
        ),  # the last runs fastest; early keys, which mostly meet more queries, start first
        grid_names=("tile", "batch", "head"),
        num_threads=ring.COMPUTE_WARPGROUPS + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )(q_BTHh, k_BSKh, v_BSKh, d_out_BTHh, rows_BHn2t, bounds_Bn2t, ring.pack(ranges))


def _pairs(x_T: jax.Array, y_T: jax.Array, tile: int) -> jax.Array:
    """[..., T] twice -> [..., n, 2, tile]: what a tile of queries needs of both, in one piece of memory."""
    return jnp.stack([x.reshape(*x.shape[:-1], -1, tile) for x in (x_T, y_T)], axis=-2)


def _kernel(
    q_BTHh: Any,
    k_BSKh: Any,
    v_BSKh: Any,
    d_out_BTHh: Any,
    rows_BHn2t: Any,
    bounds_Bn2t: Any,
    ranges_B4n: Any,
    d_k_BSKh: Any,
    d_v_BSKh: Any,
    queries: Any,
    d_outs: Any,
    scratch: Any,
    *,
    split: bool,
    tiling: Tiling,
    scale: float,
    softcap: float | None,
) -> None:
    queries, d_outs = ring.Ring.of(queries, tiling.stages), ring.Ring.of(d_outs, tiling.stages)
    tile, batch, head = (lax.axis_index(name) for name in ("tile", "batch", "head"))
    warpgroup = lax.axis_index("warpgroup")
    visits = ring.Visits.load(ranges_B4n, batch, tile)
    group = q_BTHh.shape[2] // k_BSKh.shape[2]

    @pl.when(warpgroup == ring.COPY_WARPGROUP)
    def _():
        plgpu.set_max_registers(ring.COPY_REGISTERS, action="decrease")

        @pl.loop(0, group)
        def _(g):
            q_head = head * group + g

            @pl.loop(0, visits.num)
            def _(i):
                step, n = g * visits.num + i, visits.tile(i)
                here = (batch, pl.ds(n * tiling.q_tile, tiling.q_tile), q_head)
                queries.copy(step, q_BTHh.at[here], rows_BHn2t.at[batch, q_head, n], bounds_Bn2t.at[batch, n])
                d_outs.copy(step, d_out_BTHh.at[here])

        queries.drain(group * visits.num)
        d_outs.drain(group * visits.num)

    @pl.when(warpgroup != ring.COPY_WARPGROUP)
    def _():
        plgpu.set_max_registers(ring.COMPUTE_REGISTERS, action="increase")

        def over_steps(step, start):
            """Fold `step` over all query heads and their tiles, in the order in which they come."""

            def one_head(g, carry):
                first = g * visits.num
                inner = first + visits.num_masked
                carry = lax.fori_loop(first, inner, functools.partial(step, masked=True), carry)
                return lax.fori_loop(inner, first + visits.num, functools.partial(step, masked=False), carry)

            return lax.fori_loop(0, group, one_head, start)

        job = compute.Job(
            queries=queries,
            d_outs=d_outs,
            over_steps=over_steps,
            num_steps=group * visits.num,
            keys=(k_BSKh, v_BSKh),
            gradients=(d_k_BSKh, d_v_BSKh),
            batch=batch,
            head=head,
            first_key=tile * tiling.k_tile,
            scale=scale,
            softcap=softcap,
        )
        (compute.split if split else compute.whole)(job, *scratch)
