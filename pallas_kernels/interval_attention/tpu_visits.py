"""A kernel's grid as a flat list of the tiles of scores to visit.

A grid over (tile here, tile there) pays about 0.35 us for each tile that it skips. For causal attention over 131,072
tokens in tiles of 1024 x 1024 and 8 heads that is 23 ms, and the more the smaller the tiles. The list has one step for
each tile with an allowed score. It is computed on the device, where the intervals are; its length bounds the grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.interval_attention.tiles import TileRanges

__all__ = ["HERE", "MAX_TILES", "MAX_VISITS", "THERE", "Visit", "Visits", "list_visits", "run"]

HERE, THERE = 0, 1
_BITS = 16
MAX_TILES = 1 << (_BITS - 1)  # a step is one int32
MAX_VISITS = 3 << 16  # they take 768 of the 1024 KiB of scalar memory
# Of 64 MiB on a v7x core and 128 MiB on v5p and v6e; what is left is XLA's.
VMEM_BYTES = 48 << 20


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Visits:
    """For each tile here, one after the other, the tiles there that it meets.

    A tile here that meets none has one step all the same, which writes its outputs.
    """

    steps: jax.Array  # int32: here << 16 | there
    first: jax.Array  # int32, one for each tile here, as in TileRanges
    end: jax.Array
    inner_first: jax.Array
    inner_end: jax.Array
    num: jax.Array  # int32[]: how many of the steps count


def list_visits(ranges: TileRanges, max_visits: int) -> Visits:
    """The list of the ranges of one sequence, int32[1,n] each."""
    first, end, inner_first, inner_end = (x[0] for x in dataclasses.astuple(ranges))
    stop = jnp.cumsum(jnp.maximum(end - first, 1), dtype=jnp.int32)
    start = stop - jnp.maximum(end - first, 1)
    step = jnp.arange(max_visits, dtype=jnp.int32)
    # Sums over comparisons are one fused loop on a TPU, and cheaper than a gather of as many words.
    begun = step[:, None] >= start
    here = begun.sum(-1, dtype=jnp.int32) - 1
    there = step + jnp.where(begun, jnp.diff(first - start, prepend=0), 0).sum(-1, dtype=jnp.int32)
    return Visits(here << _BITS | there, first, end, inner_first, inner_end, stop[-1])


@dataclasses.dataclass(frozen=True)
class Visit:
    """Where a kernel stands in the list: the two tiles, and what is to be done."""

    here: Any
    there: Any
    is_first: Any  # of the visits of the tile here
    is_last: Any
    is_inner: Any  # every score is allowed
    is_edge: Any  # some are

    @classmethod
    def read(cls, steps, first, end, inner_first, inner_end) -> Visit:
        here, there = _split(steps[pl.program_id(1)])
        is_inner = (inner_first[here] <= there) & (there < inner_end[here])
        is_edge = (there < end[here]) & jnp.logical_not(is_inner)
        return cls(here, there, there == first[here], there + 1 >= end[here], is_inner, is_edge)


def run(
    kernel: Callable[..., None],
    name: str,
    visits: Visits,
    inputs: Sequence[tuple[jax.Array, int]],
    outputs: Sequence[tuple[jax.ShapeDtypeStruct, int]],
    scratch: Sequence[tuple[int, int]],
):
    """Call `kernel(steps, first, end, inner_first, inner_end, *inputs, *outputs, *scratch)` for each head and visit.

    Inputs and outputs are [heads, tiles, ...] with the side, HERE or THERE, whose tile the kernel sees; an array with
    one head is shared by all. Scratch is float32 of the given shapes.
    """
    grid_spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=5,
        grid=(max(x.shape[0] for x, _ in inputs), visits.num),
        in_specs=[_block(x.shape, side) for x, side in inputs],
        out_specs=[_block(x.shape, side) for x, side in outputs],
        scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
    )
    params = pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM_BYTES)
    out_shape = [x for x, _ in outputs]
    call = pl.pallas_call(kernel, out_shape=out_shape, grid_spec=grid_spec, compiler_params=params, name=name)
    return call(visits.steps, visits.first, visits.end, visits.inner_first, visits.inner_end, *(x for x, _ in inputs))


def _block(shape: Sequence[int], side: int) -> pl.BlockSpec:
    def index(head, step, steps, *_):
        return 0 if shape[0] == 1 else head, _split(steps[step])[side], *(0,) * len(shape[2:])

    return pl.BlockSpec((None, None, *shape[2:]), index)


def _split(step):
    return step >> _BITS, step & ((1 << _BITS) - 1)
