"""Interval attention on Hopper (sm_90a), forward: FlashAttention-3's (arXiv 2407.08608) ping-pong in Mosaic GPU.

A block owns 128 queries of one head, 64 for each of two warpgroups that take turns: while one has the tensor cores, the
other computes its exponentials. Softmax is in base 2: scale and peak are one multiply-add before each exponential.

The second warpgroup also loads keys and values, in the time it would wait for the tensor cores. It comes last in every
turn, so a tile that it has read is free and the turns are all the synchronisation that takes. Without a warpgroup that
only loads, each thread may have 255 registers and none need be moved (`setmaxnreg`, which jax 0.12's linker ignores).

Of the tiles of keys that `tiles.key_tiles` names, those that need a mask come first; the others run in a loop without.
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

from pallas_kernels.interval_attention import gpu_tiles as gt
from pallas_kernels.interval_attention import tiles
from pallas_kernels.interval_attention.gpu_backward import backward
from pallas_kernels.interval_attention.gpu_ring import Visits, pack
from pallas_kernels.interval_attention.gpu_tiles import unsupported
from pallas_kernels.interval_attention.reference import EMPTY_LSE

__all__ = ["backward", "forward", "unsupported"]

NUM_WARPGROUPS = 2
ROWS_EACH = 64
Q_TILE = NUM_WARPGROUPS * ROWS_EACH
NUM_STAGES = 2  # tiles of keys, and of values, in shared memory
_TINY = 1e-30  # a scale of 0 would turn masked scores, -inf, into NaN


def forward(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    lo_BT: jax.Array,
    hi_BT: jax.Array,
    *,
    scale: float,
    softcap: float | None,
) -> tuple[jax.Array, jax.Array]:
    """Return (out_BTHh, lse_BTH) of `interval_attention` for arrays that are not `unsupported`."""
    _, T, _, h = q_BTHh.shape
    S = k_BSKh.shape[1]
    k_tile = 128 if h <= 128 else 64  # as two stages of keys and values fit in shared memory
    lo_BT, hi_BT = gt.intervals(lo_BT, hi_BT, S, Q_TILE)
    ranges = tiles.key_tiles(lo_BT, hi_BT, q_tile=Q_TILE, k_tile=k_tile)
    if scale < 0:  # the running maximum is taken before scaling
        q_BTHh, scale = -q_BTHh, -scale
    scale = max(scale, _TINY)
    q_BTHh = gt.pad(q_BTHh, 1, Q_TILE)
    k_BSKh, v_BSKh = (gt.pad(x, 1, k_tile) for x in (k_BSKh, v_BSKh))
    out_BTHh, lse_BHT = _call(q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, pack(ranges), scale, softcap, k_tile)
    return out_BTHh[:, :T], jnp.swapaxes(lse_BHT[..., :T], 1, 2)


def _call(q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, ranges_B4n, scale, softcap, k_tile):
    B, T, H, h = q_BTHh.shape
    num_kv_heads = k_BSKh.shape[2]
    scratch = {
        "q_smem": gt.smem((NUM_WARPGROUPS, ROWS_EACH, h), q_BTHh.dtype),
        "k_smem": gt.smem((NUM_STAGES, k_tile, h), q_BTHh.dtype),
        "v_smem": gt.smem((NUM_STAGES, k_tile, h), q_BTHh.dtype),
        "lse_smem": plgpu.SMEM((NUM_WARPGROUPS, ROWS_EACH), jnp.float32),
        "q_ready": plgpu.Barrier(num_barriers=NUM_WARPGROUPS),
        "k_ready": plgpu.Barrier(num_barriers=NUM_STAGES),
        "v_ready": plgpu.Barrier(num_barriers=NUM_STAGES),
        "turn": plgpu.Barrier(num_arrivals=NUM_WARPGROUPS),
    }
    kernel = plgpu.kernel(
        functools.partial(_kernel, scale=scale, softcap=softcap),
        out_type=(
            jax.ShapeDtypeStruct(q_BTHh.shape, q_BTHh.dtype),
            jax.ShapeDtypeStruct((B, H, T), jnp.float32),  # the queries of a head side by side, as TMA writes them
        ),
        scratch_types=scratch,
        # One key/value head after the other, so that its keys stay in L2, and the heads that share it side by side.
        grid=(B, num_kv_heads, T // Q_TILE, H // num_kv_heads),
        grid_names=("batch", "kv_head", "q_tile", "group"),
        num_threads=NUM_WARPGROUPS,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )
    return kernel(q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, ranges_B4n)


def _kernel(q_ref, k_ref, v_ref, lo_ref, hi_ref, ranges_ref, out_ref, lse_ref, *, scale, softcap, **scratch):
    q_smem, lse_smem, q_ready = (scratch.pop(name) for name in ("q_smem", "lse_smem", "q_ready"))
    batch, kv_head, warpgroup = (lax.axis_index(name) for name in ("batch", "kv_head", "warpgroup"))
    q_head = kv_head * lax.axis_size("group") + lax.axis_index("group")
    # Under a causal mask the last queries have most to do: first come, so that the last blocks to start are short.
    q_tile = lax.axis_size("q_tile") - 1 - lax.axis_index("q_tile")
    rows = pl.ds(q_tile * Q_TILE + warpgroup * ROWS_EACH, ROWS_EACH)
    q_smem, lse_smem, q_ready = (x.at[warpgroup] for x in (q_smem, lse_smem, q_ready))
    plgpu.copy_gmem_to_smem(q_ref.at[batch, rows, q_head], q_smem, q_ready)
    visits = Visits.load(ranges_ref, batch, q_tile)
    stream = _Stream(k_ref.at[batch, :, kv_head], v_ref.at[batch, :, kv_head], visits, warpgroup, **scratch)
    stream.start()
    lo, hi = (gt.load(x.at[batch, rows], gt.ROWS) for x in (lo_ref, hi_ref))
    plgpu.barrier_wait(q_ready)

    acc, peak, total = _attend(stream, q_smem, lo, hi, scale, softcap)
    has_keys = lo < hi
    weight = jnp.where(has_keys, 1 / total, 0.0)
    q_smem[...] = (acc * gt.along(weight, acc.shape, 0)).astype(q_smem.dtype)
    lse_smem[...] = jnp.where(has_keys, gt.LN_2 * peak + jnp.log(total), EMPTY_LSE)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(q_smem, out_ref.at[batch, rows, q_head])
    plgpu.copy_smem_to_gmem(lse_smem, lse_ref.at[batch, q_head, rows])
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    pl.when(warpgroup == 0)(lambda: plgpu.barrier_wait(stream.turn))


@dataclasses.dataclass(frozen=True)
class _Stream:
    """The tiles of keys and values that pass through shared memory, and whose turn it is at the tensor cores."""

    k_ref: Any
    v_ref: Any
    visits: Visits
    warpgroup: Any
    k_smem: Any
    v_smem: Any
    k_ready: Any
    v_ready: Any
    turn: Any

    def start(self):
        """Fill the stages, but for the last of the values, which `load_values` of the first step fills."""
        for step in range(NUM_STAGES):
            self.load_keys(step)
            if step < NUM_STAGES - 1:
                self.load_values(step)

    def load_keys(self, step):
        """Load the keys of a step, if there is one, into the stage of the step NUM_STAGES before."""
        self._load(self.k_ref, self.k_smem, self.k_ready, step)

    def load_values(self, step):
        self._load(self.v_ref, self.v_smem, self.v_ready, step)

    def _load(self, ref, smem, ready, step):
        @pl.when((self.warpgroup == NUM_WARPGROUPS - 1) & (step < self.visits.num))
        def _copy():
            k_tile, stage = smem.shape[1], lax.rem(step, NUM_STAGES)
            keys = pl.ds(self.visits.tile(step) * k_tile, k_tile)
            plgpu.copy_gmem_to_smem(ref.at[keys], smem.at[stage], ready.at[stage])

    def await_keys(self, step):
        @pl.when(step < self.visits.num)
        def _wait():
            plgpu.barrier_wait(self.k_ready.at[lax.rem(step, NUM_STAGES)])

    def take_turns(self, meanwhile=lambda: None):
        """Return when the other warpgroup has called this as often."""
        plgpu.barrier_arrive(self.turn)
        meanwhile()
        plgpu.barrier_wait(self.turn)


def _attend(stream: _Stream, q_smem, lo, hi, scale, softcap):
    """Online softmax over all tiles of keys: the sum of values (not normalised), the peak in base 2 and the total.

    The peak starts finite, below any real score, so that a row whose first tiles are all masked stays free of NaN.

    The order at the tensor cores: scores of step i, of the first warpgroup and of the second; values of step i and then
    scores of step i + 1, of the first and of the second; and so on.
    """
    k_tile, h = stream.k_smem.shape[1:]
    visits = stream.visits

    def step(i, carry, masked):
        acc, peak, total = carry
        stage = lax.rem(i, NUM_STAGES)
        load_values = functools.partial(stream.load_values, i + NUM_STAGES - 1)
        keys = stream.k_smem.at[stage].transpose((1, 0))
        scores = gt.product(q_smem, keys, functools.partial(stream.take_turns, load_values))
        scores, factor = _base2(scores, scale, softcap)
        if masked:
            first_key = visits.tile(i) * k_tile
            scores = jnp.where(_allowed(lo - first_key, hi - first_key, scores.shape), scores, -jnp.inf)
        new_peak = jnp.maximum(peak, scores.max(1) * factor)
        p = jnp.exp2(scores * factor - gt.along(new_peak, scores.shape, 0))
        shrink = jnp.exp2(peak - new_peak)
        total = total * shrink + p.sum(1)
        acc *= gt.along(shrink, acc.shape, 0)
        acc, peak, total, p = lax.optimization_barrier((acc, new_peak, total, p.astype(q_smem.dtype)))
        stream.take_turns(lambda: plgpu.barrier_wait(stream.v_ready.at[stage]))

        def prepare_next():
            stream.load_keys(i + NUM_STAGES)
            stream.await_keys(i + 1)

        return gt.add_product(acc, p, stream.v_smem.at[stage], prepare_next), peak, total

    carry = (
        gt.full((ROWS_EACH, h), 0, plgpu.Layout.WGMMA),
        gt.full((ROWS_EACH,), EMPTY_LSE, gt.ROWS),
        gt.full((ROWS_EACH,), 0, gt.ROWS),
    )
    stream.await_keys(0)
    pl.when(stream.warpgroup == 1)(stream.take_turns)
    carry = lax.fori_loop(0, visits.num_masked, functools.partial(step, masked=True), carry)
    carry = lax.fori_loop(visits.num_masked, visits.num, functools.partial(step, masked=False), carry)
    pl.when(stream.warpgroup == 0)(lambda: plgpu.barrier_arrive(stream.turn))  # for the last values of the second
    return carry


def _base2(scores, scale, softcap):
    """Scores and the factor that turns them into exponents of 2."""
    if softcap is None:
        return scores, scale * gt.LOG2_E
    return jnp.tanh(scores * (scale / softcap)), softcap * gt.LOG2_E


def _allowed(lo, hi, shape):
    """Which columns of a tile lie in [lo, hi) of each row: unsigned, one comparison sees both ends."""
    lo, length = lo.astype(jnp.uint32), jnp.maximum(hi - lo, 0).astype(jnp.uint32)
    key = plgpu.broadcasted_iota(jnp.uint32, shape, 1, layout=plgpu.Layout.WGMMA)
    return key - gt.along(lo, shape, 0) < gt.along(length, shape, 0)
