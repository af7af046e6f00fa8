"""What the computing warpgroups of the kernel for keys and values do: `whole` or `split` work.

Whole: each warpgroup computes both gradients of 64 keys of its own. Split, where the two would not fit into registers:
both serve the same 64 keys, one computes the gradient of the values and hands its probabilities to the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.interval_attention import gpu_ring as ring
from pallas_kernels.interval_attention import gpu_tiles as gpu

ROWS = ring.WARPGROUP_ROWS
WEIGHT_STAGES = 2


@dataclasses.dataclass(frozen=True)
class Job:
    """One block of threads: where it stands, its queries, and the order of its steps.

    `over_steps(step, start)` folds `step(i, carry, masked=...)`; `keys` and `gradients` are k and v, d_k and d_v.
    """

    queries: ring.Ring
    d_outs: ring.Ring
    over_steps: Callable[..., Any]
    num_steps: jax.Array
    keys: tuple[Any, Any]
    gradients: tuple[Any, Any]
    batch: jax.Array
    head: jax.Array
    first_key: jax.Array
    scale: float
    softcap: float | None

    def slice(self, first_key: jax.Array) -> tuple[Any, ...]:
        """The index of 64 keys."""
        return self.batch, pl.ds(first_key, ROWS), self.head


def whole_scratch(q_tile: int, h: int, dtype: Any) -> tuple[Any, ...]:
    """Shared memory for `whole`."""
    del q_tile
    own = gpu.smem((ring.COMPUTE_WARPGROUPS, ROWS, h), dtype)
    return own, own, plgpu.Barrier(num_barriers=ring.COMPUTE_WARPGROUPS, num_arrivals=2)


def whole(job: Job, k_wsh: Any, v_wsh: Any, full: Any) -> None:
    """Both gradients of this warpgroup's 64 keys."""
    warpgroup = lax.axis_index("warpgroup")
    first_key = job.first_key + warpgroup * ROWS
    k_sh, v_sh = k_wsh.at[warpgroup], v_wsh.at[warpgroup]
    for source, target in zip(job.keys, (k_sh, v_sh), strict=True):
        plgpu.copy_gmem_to_smem(source.at[job.slice(first_key)], target, full.at[warpgroup])
    plgpu.barrier_wait(full.at[warpgroup])

    def step(i, d_kv, *, masked):
        q_th, rows_2t, bounds_2t = job.queries.take(i)
        (d_out_th,) = job.d_outs.take(i)
        here = ring.opaque(warpgroup)

        def products(d_k_acc, d_v_acc, s_acc, d_p_acc):
            ring.multiply_add(s_acc, k_wsh.at[here], q_th.transpose((1, 0)))
            ring.multiply_add(d_p_acc, v_wsh.at[here], d_out_th.transpose((1, 0)))
            s_st = ring.read(s_acc, in_flight=1)
            p_st, slope_st = _weights(job, s_st, rows_2t, bounds_2t if masked else None, first_key)
            ring.multiply_add(d_v_acc, p_st.astype(q_th.dtype), d_out_th)
            d_s_st = slope_st * ring.read(d_p_acc, in_flight=1)
            ring.multiply_add(d_k_acc, d_s_st.astype(q_th.dtype), q_th)

        s_st, d_p_st = ring.zeros(ROWS, q_th.shape[0]), -_columns(rows_2t, 1)
        d_k_sh, d_v_sh, _, _ = ring.accumulate(products, *d_kv, s_st, d_p_st)
        job.queries.release(i)
        job.d_outs.release(i)
        return d_k_sh, d_v_sh

    d_k_sh, d_v_sh = job.over_steps(step, (ring.zeros(*k_sh.shape), ring.zeros(*v_sh.shape)))
    k_sh[...] = (d_k_sh * job.scale).astype(k_sh.dtype)
    v_sh[...] = d_v_sh.astype(v_sh.dtype)
    plgpu.commit_smem()
    for source, target in zip((k_sh, v_sh), job.gradients, strict=True):
        plgpu.copy_smem_to_gmem(source, target.at[job.slice(first_key)])
    plgpu.wait_smem_to_gmem(0)


def split_scratch(q_tile: int, h: int, dtype: Any) -> tuple[Any, ...]:
    """Shared memory for `split`."""
    own = gpu.smem((ring.COMPUTE_WARPGROUPS, ROWS, h), dtype)
    weights = ring.Ring.scratch(WEIGHT_STAGES, gpu.smem((WEIGHT_STAGES, ROWS, q_tile), dtype), readers=1)
    return own, plgpu.Barrier(num_barriers=ring.COMPUTE_WARPGROUPS), weights


def split(job: Job, own_wsh: Any, full: Any, weights: Any) -> None:
    """One gradient of the block's 64 keys: the first warpgroup that of the values, the second that of the keys."""
    weights = ring.Ring.of(weights, WEIGHT_STAGES)
    warpgroup = lax.axis_index("warpgroup")
    own_sh, full = own_wsh.at[warpgroup], full.at[warpgroup]
    here = job.slice(job.first_key)

    @pl.when(warpgroup == 0)
    def _():
        plgpu.copy_gmem_to_smem(job.keys[0].at[here], own_sh, full)
        plgpu.barrier_wait(full)
        d_v_sh = job.over_steps(_value_step(job, own_sh, weights), ring.zeros(*own_sh.shape))
        weights.drain(job.num_steps)
        _write(own_sh, d_v_sh, job.gradients[1].at[here])

    @pl.when(warpgroup == 1)
    def _():
        plgpu.copy_gmem_to_smem(job.keys[1].at[here], own_sh, full)
        plgpu.barrier_wait(full)
        d_k_sh = job.over_steps(_key_step(job, own_sh, weights), ring.zeros(*own_sh.shape))
        _write(own_sh, d_k_sh * job.scale, job.gradients[0].at[here])


def _value_step(job, k_sh, weights):
    def step(i, d_v_sh, *, masked):
        q_th, rows_2t, bounds_2t = job.queries.take(i)

        def products(d_v_acc, s_acc):
            ring.multiply_add(s_acc, k_sh, q_th.transpose((1, 0)))
            s_st = ring.read(s_acc, in_flight=0)
            p_st, slope_st = _weights(job, s_st, rows_2t, bounds_2t if masked else None, job.first_key)
            job.queries.release(i)
            weights.store(i, slope_st.astype(q_th.dtype))
            (d_out_th,) = job.d_outs.take(i)
            ring.multiply_add(d_v_acc, p_st.astype(q_th.dtype), d_out_th)

        d_v_sh, _ = ring.accumulate(products, d_v_sh, ring.zeros(ROWS, q_th.shape[0]))
        job.d_outs.release(i)
        return d_v_sh

    return step


def _key_step(job, v_sh, weights):
    def step(i, d_k_sh, *, masked):
        del masked  # probabilities come masked
        q_th, rows_2t, _ = job.queries.take(i)
        (d_out_th,) = job.d_outs.take(i)

        def products(d_k_acc, d_p_acc):
            ring.multiply_add(d_p_acc, v_sh, d_out_th.transpose((1, 0)))
            (slope_st,) = weights.take(i)
            slope_st = plgpu.load(slope_st, layout=plgpu.Layout.WGMMA).astype(jnp.float32)
            weights.release(i)
            d_s_st = slope_st * ring.read(d_p_acc, in_flight=0)
            job.d_outs.release(i)
            ring.multiply_add(d_k_acc, d_s_st.astype(q_th.dtype), q_th)

        d_k_sh, _ = ring.accumulate(products, d_k_sh, -_columns(rows_2t, 1))
        job.queries.release(i)
        return d_k_sh

    return step


def _weights(job, s_st, rows_2t, bounds_2t, first_key):
    """Probabilities of a tile, and those times the derivative of the cap; with bounds only where keys are in them."""

    def allow(p_st):  # reads the bounds late, when registers are free
        key_st = plgpu.broadcasted_iota(jnp.int32, p_st.shape, 0, layout=plgpu.Layout.WGMMA) + first_key
        p_st = jnp.where(_columns(bounds_2t, 0) <= key_st, p_st, 0.0)
        return jnp.where(key_st < _columns(bounds_2t, 1), p_st, 0.0)

    mask = None if bounds_2t is None else allow
    return ring.probabilities(s_st, _columns(rows_2t, 0), mask, job.scale, job.softcap)


def _columns(pair_2t, which):
    """One of two vectors over queries, repeated over a tile of 64 keys."""
    vector_t = plgpu.load(pair_2t.at[which], layout=gpu.COLUMNS)
    return gpu.along(vector_t, (ROWS, vector_t.shape[0]), 1)


def _write(buffer, value, target):
    """Write a tile from registers to global memory through shared memory."""
    buffer[...] = value.astype(buffer.dtype)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(buffer, target)
    plgpu.wait_smem_to_gmem(0)
