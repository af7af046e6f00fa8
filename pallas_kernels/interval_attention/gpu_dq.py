"""Gradient of the queries on Hopper: every tile of queries walks over the tiles of keys that it attends to."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.interval_attention import gpu_ring as ring
from pallas_kernels.interval_attention import gpu_tiles as gpu
from pallas_kernels.interval_attention.tiles import key_tiles

ROWS = ring.WARPGROUP_ROWS
Q_TILE = ring.COMPUTE_WARPGROUPS * ROWS


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Keys per step, and how many tiles of keys and of values shared memory holds."""

    k_tile: int
    k_stages: int
    v_stages: int


# Per thread: k_tile registers for scores and their gradients, h / 2 for the result.
TILINGS = {64: Tiling(128, 3, 3), 128: Tiling(128, 2, 2), 256: Tiling(64, 2, 1)}


def d_query(
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
) -> jax.Array:
    """The gradient of q. T and S are multiples of 128, lse2 is to base 2 and +1e30 in rows without keys."""
    B, T, H, h = q_BTHh.shape
    tiling, dtype = TILINGS[h], q_BTHh.dtype
    ranges_B4n = ring.pack(key_tiles(lo_BT, hi_BT, q_tile=Q_TILE, k_tile=tiling.k_tile))
    rows = gpu.smem((ring.COMPUTE_WARPGROUPS, ROWS, h), dtype)
    keys = ring.Ring.scratch(tiling.k_stages, gpu.smem((tiling.k_stages, tiling.k_tile, h), dtype))
    values = ring.Ring.scratch(tiling.v_stages, gpu.smem((tiling.v_stages, tiling.k_tile, h), dtype))
    rows_full = plgpu.Barrier(num_barriers=ring.COMPUTE_WARPGROUPS, num_arrivals=2)
    return plgpu.kernel(
        functools.partial(_kernel, tiling=tiling, scale=scale, softcap=softcap),
        out_type=jax.ShapeDtypeStruct(q_BTHh.shape, dtype),
        scratch_types=(rows, rows, rows_full, keys, values),
        grid=(T // Q_TILE, B, H),  # the last runs fastest: heads that read the same keys run together
        grid_names=("tile", "batch", "head"),
        num_threads=ring.COMPUTE_WARPGROUPS + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )(q_BTHh, k_BSKh, v_BSKh, d_out_BTHh, lse2_BHT, delta_BHT, lo_BT, hi_BT, ranges_B4n)


def _kernel(
    q_BTHh: Any,
    k_BSKh: Any,
    v_BSKh: Any,
    d_out_BTHh: Any,
    lse2_BHT: Any,
    delta_BHT: Any,
    lo_BT: Any,
    hi_BT: Any,
    ranges_B4n: Any,
    d_q_BTHh: Any,
    q_wth: Any,
    d_out_wth: Any,
    rows_full: Any,
    keys: Any,
    values: Any,
    *,
    tiling: Tiling,
    scale: float,
    softcap: float | None,
) -> None:
    keys, values = ring.Ring.of(keys, tiling.k_stages), ring.Ring.of(values, tiling.v_stages)
    # Later tiles of queries mostly see more keys: they start first, so that no long one is left for the end.
    tile = q_BTHh.shape[1] // Q_TILE - 1 - lax.axis_index("tile")
    batch, head, warpgroup = lax.axis_index("batch"), lax.axis_index("head"), lax.axis_index("warpgroup")
    visits = ring.Visits.load(ranges_B4n, batch, tile)

    @pl.when(warpgroup == ring.COPY_WARPGROUP)
    def _():
        plgpu.set_max_registers(ring.COPY_REGISTERS, action="decrease")
        kv_head = lax.div(head, jnp.int32(q_BTHh.shape[2] // k_BSKh.shape[2]))

        @pl.loop(0, visits.num)
        def _(step):
            some_keys = pl.ds(visits.tile(step) * tiling.k_tile, tiling.k_tile)
            keys.copy(step, k_BSKh.at[batch, some_keys, kv_head])
            values.copy(step, v_BSKh.at[batch, some_keys, kv_head])

        keys.drain(visits.num)
        values.drain(visits.num)

    @pl.when(warpgroup != ring.COPY_WARPGROUP)
    def _():
        plgpu.set_max_registers(ring.COMPUTE_REGISTERS, action="increase")
        own_rows = pl.ds(tile * Q_TILE + warpgroup * ROWS, ROWS)
        q_th, d_out_th = q_wth.at[warpgroup], d_out_wth.at[warpgroup]
        plgpu.copy_gmem_to_smem(q_BTHh.at[batch, own_rows, head], q_th, rows_full.at[warpgroup])
        plgpu.copy_gmem_to_smem(d_out_BTHh.at[batch, own_rows, head], d_out_th, rows_full.at[warpgroup])
        row = (gpu.load(x.at[batch, head, own_rows], gpu.ROWS) for x in (lse2_BHT, delta_BHT))
        bound = (gpu.load(x.at[batch, own_rows], gpu.ROWS) for x in (lo_BT, hi_BT))
        plgpu.barrier_wait(rows_full.at[warpgroup])
        step = functools.partial(
            _step, q_wth, d_out_wth, keys, values, visits, (*row, *bound), scale=scale, softcap=softcap
        )
        d_q_th = ring.zeros(*q_th.shape)
        d_q_th = lax.fori_loop(0, visits.num_masked, functools.partial(step, masked=True), d_q_th)
        d_q_th = lax.fori_loop(visits.num_masked, visits.num, functools.partial(step, masked=False), d_q_th)
        q_th[...] = (d_q_th * scale).astype(q_th.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_th, d_q_BTHh.at[batch, own_rows, head])
        plgpu.wait_smem_to_gmem(0)


def _step(q_wth, d_out_wth, keys, values, visits, rows, i, d_q_th, *, masked, scale, softcap):
    """Add what one tile of keys gives to the gradient of one warpgroup's queries."""
    warpgroup = ring.opaque(lax.axis_index("warpgroup"))
    q_th, d_out_th = q_wth.at[warpgroup], d_out_wth.at[warpgroup]
    (k_sh,) = keys.take(i)
    tile = (q_th.shape[0], k_sh.shape[0])
    lse2_t, delta_t, lo_t, hi_t = rows
    lse2_ts, delta_ts = (gpu.along(x, tile, 0) for x in (lse2_t, delta_t))

    def products(d_q_acc, s_acc, d_p_acc):
        ring.multiply_add(s_acc, q_th, k_sh.transpose((1, 0)))
        (v_sh,) = values.take(i)
        ring.multiply_add(d_p_acc, d_out_th, v_sh.transpose((1, 0)))

        def allow(p_ts):
            key_ts = plgpu.broadcasted_iota(jnp.int32, tile, 1, layout=plgpu.Layout.WGMMA) + visits.tile(i) * tile[1]
            return jnp.where((gpu.along(lo_t, tile, 0) <= key_ts) & (key_ts < gpu.along(hi_t, tile, 0)), p_ts, 0.0)

        s_ts = ring.read(s_acc, in_flight=1)
        _, p_ts = ring.probabilities(s_ts, lse2_ts, allow if masked else None, scale, softcap)
        d_s_ts = p_ts * ring.read(d_p_acc, in_flight=0)
        values.release(i)
        ring.multiply_add(d_q_acc, d_s_ts.astype(k_sh.dtype), k_sh)

    d_q_th, _, _ = ring.accumulate(products, d_q_th, ring.zeros(*tile), -delta_ts)
    keys.release(i)
    return d_q_th
