"""What the Hopper backward kernels share: rings of buffers, accumulators of concurrent products, the order of tiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.backend import emulating
from pallas_kernels.interval_attention import gpu_tiles as gpu
from pallas_kernels.interval_attention.tiles import TileRanges

# Two warpgroups compute, a third one only starts copies: 2 x 240 + 24 registers of a multiprocessor's 512 per lane.
COMPUTE_WARPGROUPS = 2
COPY_WARPGROUP = COMPUTE_WARPGROUPS
COMPUTE_REGISTERS = 240
COPY_REGISTERS = 24
WARPGROUP_ROWS = 64


@dataclasses.dataclass(frozen=True)
class Ring:
    """Slots in shared memory that one warpgroup fills and others read."""

    buffers: tuple[Any, ...]
    full: Any
    free: Any
    stages: int

    @staticmethod
    def scratch(stages: int, *buffers: Any, readers: int = COMPUTE_WARPGROUPS) -> tuple[Any, ...]:
        """What to ask of `scratch_types` for buffers [stages, ...]; `Ring.of(scratch, stages)` wraps what comes."""
        full = plgpu.Barrier(num_barriers=stages, num_arrivals=len(buffers))
        return buffers, full, plgpu.Barrier(num_barriers=stages, num_arrivals=readers)

    @classmethod
    def of(cls, scratch: Any, stages: int) -> Ring:
        """The ring in memory that `scratch` asked for."""
        buffers, full, free = scratch
        return cls(buffers, full, free, stages)

    def copy(self, step: jax.Array, *sources: Any) -> None:
        """Start to fill the slot of this step from global memory, once it is free."""
        slot = self._free_slot(step)
        for source, buffer in zip(sources, self.buffers, strict=True):
            plgpu.copy_gmem_to_smem(source, buffer.at[slot], self.full.at[slot])

    def store(self, step: jax.Array, value: jax.Array) -> None:
        """Fill the slot of this step, of one buffer, from registers."""
        slot = self._free_slot(step)
        self.buffers[0].at[slot][...] = value
        plgpu.barrier_arrive(self.full.at[slot])

    def take(self, step: jax.Array) -> tuple[Any, ...]:
        """The buffers of this step, once they are full."""
        slot = opaque(self._slot(step))  # which it would not be with one stage
        plgpu.barrier_wait(self.full.at[slot])
        return tuple(buffer.at[slot] for buffer in self.buffers)

    def release(self, step: jax.Array) -> None:
        """Allow the slot of this step to be filled again, as far as this warpgroup is concerned."""
        if emulating():  # where every product reads with plain loads, which the next copy must not overtake
            plgpu.commit_smem()
        plgpu.barrier_arrive(self.free.at[self._slot(step)])

    def drain(self, num_steps: jax.Array) -> None:
        """Wait until every slot that was filled is free: no barrier may be left with an arrival nobody saw."""

        @pl.loop(jnp.maximum(num_steps - self.stages, 0), num_steps)
        def _(step):
            plgpu.barrier_wait(self.free.at[self._slot(step)])

    def _free_slot(self, step: jax.Array) -> jax.Array:
        slot = self._slot(step)

        @pl.when(step >= self.stages)
        def _():
            plgpu.barrier_wait(self.free.at[slot])

        return slot

    def _slot(self, step: jax.Array) -> jax.Array:
        return lax.rem(step, jnp.int32(self.stages))


@dataclasses.dataclass
class _Box:
    """An accumulator in the simulator, whose own have no start value."""

    value: jax.Array


def opaque(index: jax.Array) -> jax.Array:
    """The same index, about which the compiler knows nothing.

    Called in a loop it keeps what depends on it in the loop. The addresses of the operands of a product that stay the
    same in all steps would otherwise occupy up to 64 registers per thread all the time, and spill.
    """
    return lax.optimization_barrier(index)


def zeros(*shape: int) -> jax.Array:
    """A float32 tile of zeros in registers."""
    return gpu.full(shape, 0.0, plgpu.Layout.WGMMA)


def accumulate(step: Callable[..., None], *starts_MN: jax.Array) -> list[Any]:
    """Run `step(*accumulators)`, which calls `multiply_add` and `read` on them; return their last values."""
    if emulating():
        boxes = [_Box(start_MN) for start_MN in starts_MN]
        step(*boxes)
        return [box.value for box in boxes]
    return list(pl.run_state(lambda refs: step(*refs))(tuple(plgpu.ACC.init(start_MN) for start_MN in starts_MN)))


def multiply_add(acc: Any, a_MK: Any, b_KN: Any) -> None:
    """Start acc += a @ b, with a in registers or shared memory and b in shared memory."""
    if emulating():
        acc.value += jnp.dot(a_MK[...], b_KN[...], preferred_element_type=jnp.float32)
    else:
        plgpu.wgmma(acc, a_MK, b_KN)


def read(acc: Any, *, in_flight: int) -> jax.Array:
    """The value of an accumulator, once at most `in_flight` products are unfinished; they finish in order."""
    return acc.value if emulating() else plgpu.wgmma_accumulator_load(acc, wait_n=in_flight)


def probabilities(s: jax.Array, lse2: jax.Array, allow: Callable[..., Any] | None, scale: float, softcap: float | None):
    """exp(score - lse) of a tile, and that times the derivative of the cap.

    `s` holds raw products q . k, `lse2` the logsumexp to base 2 repeated over the tile; `allow` wipes out what a mask
    forbids.
    """
    if softcap is None:
        p = jnp.exp2(s * (scale * gpu.LOG2_E) - lse2)
    else:
        capped = jnp.tanh(s * (scale / softcap))
        p = jnp.exp2(capped * (softcap * gpu.LOG2_E) - lse2)
    if allow is not None:
        p = allow(p)
    return p, p if softcap is None else p - p * capped * capped


@dataclasses.dataclass(frozen=True)
class Visits:
    """The tiles that one block of threads visits: first those that need the mask, then the others."""

    first: jax.Array
    num_left: jax.Array
    num_masked: jax.Array
    num: jax.Array
    inner_first: jax.Array
    inner_end: jax.Array

    @classmethod
    def load(cls, ranges_B4n: Any, batch: jax.Array, tile: jax.Array) -> Visits:
        """Read what `pack` packed, for one tile of the other side."""
        first, end, inner_first, inner_end = (ranges_B4n[batch, i, tile] for i in range(4))
        num = end - first
        return cls(first, inner_first - first, num - (inner_end - inner_first), num, inner_first, inner_end)

    def tile(self, i: jax.Array) -> jax.Array:
        """The i-th tile visited."""
        masked = i + jnp.where(i < self.num_left, self.first, self.inner_end - self.num_left)
        return jnp.where(i < self.num_masked, masked, i + self.inner_first - self.num_masked)


def pack(ranges: TileRanges) -> jax.Array:
    """Tile ranges as one array."""
    return jnp.stack([ranges.first, ranges.end, ranges.inner_first, ranges.inner_end], axis=1)
