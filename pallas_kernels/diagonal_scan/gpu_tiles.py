"""What the Hopper kernels of the scan do with one tile of 64 steps and 32 channels, and how tiles come and go.

A block is one warpgroup. Its four warps are four streams of 16 steps each, its 32 lanes are the channels: values are
float32[STREAMS, 1, LANES], a number for each thread. Every stream first runs from zero; the four end states and
products of coefficients, exchanged through shared memory, give the state that each stream starts from, and the second
run, over numbers that are still in registers, is the true one. So global memory is read once for both runs.

The kernels switch Pallas' own barriers off, two for every store: `chain` and `send` hold those that are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.diagonal_scan.planes import Planes, times

STREAMS, STEPS, LANES = 4, 16, 32
TILE = STREAMS * STEPS  # steps
_SHAPE = (STREAMS, 1, LANES)
_TILE_SHAPE = (STREAMS, STEPS, LANES)
_EACH = plgpu.Layout.TILED(plgpu.Tiling((_SHAPE, (1,))), warp_dims=(-4,), lane_dims=(-2,), vector_dim=-1)
_CHANNEL, _STREAM = _EACH.reduce((0, 1)), _EACH.reduce(2)  # one number for all warps, for all lanes of a warp
_SMEM_BYTES = 225 * 1024  # of a block, less some for barriers and alignment
_MAX_STAGES = 4


def full(value: float) -> jax.Array:
    """The same number for every thread."""
    return plgpu.layout_cast(jnp.full(_SHAPE, value, jnp.float32), _EACH)


def full_channels(value: float) -> jax.Array:
    """The same number for every channel."""
    return plgpu.layout_cast(jnp.full((LANES,), value, jnp.float32), _CHANNEL)


def load(refs: Sequence[Any]) -> Planes:
    """Planes of one number per thread, [STREAMS, 1, LANES]."""
    return _load(refs[0], (), _EACH), _load(refs[1], (), _EACH)


def load_steps(refs: Sequence[Any]) -> list[Planes]:
    """Planes of a tile [STREAMS, STEPS, LANES], step by step."""
    return list(zip(*(_steps(_load(ref, (), _EACH)) for ref in refs), strict=True))


def load_keep(ref: Any) -> list[jax.Array]:
    """The factors [STREAMS, STEPS] of a tile, step by step."""
    return _steps(lax.broadcast_in_dim(_load(ref, (), _STREAM), _TILE_SHAPE, (0, 1)))


def load_channels(refs: Sequence[Any], *index: Any) -> Planes:
    """Planes of one number per channel, which all streams share."""
    return _load(refs[0], index, _CHANNEL), _load(refs[1], index, _CHANNEL)


def spread(x: Planes) -> Planes:
    """Give each stream what all share."""
    return _spread(x[0], 2), _spread(x[1], 2)


def store(refs: Sequence[Any], value: Planes, *index: Any) -> None:
    """Write both planes at `index`."""
    for ref, plane in zip(refs, value, strict=True):
        ref[index] = plane


def join(steps: Sequence[Planes]) -> Planes:
    """Steps to whole planes of a tile."""
    re, im = (lax.concatenate(plane, 1) for plane in zip(*steps, strict=True))
    return re, im


def run(coefficients: Sequence[Planes], inputs: Sequence[Planes]) -> tuple[Planes, Planes]:
    """Of every stream: the end of state <- coefficient state + input from zero, and the product of coefficients."""
    end, product = inputs[0], coefficients[0]
    for c, x in zip(coefficients[1:], inputs[1:], strict=True):
        end, product = times(c, end, x), times(c, product)
    return end, product


def chain(exchange: Any, end: Planes, product: Planes, state: Planes, *, reverse: bool) -> tuple[Planes, Planes]:
    """The state that each stream starts from, and that after the tile, given that before it.

    Every thread may read afterwards what others wrote before, and overwrite what they read.
    """
    for i, plane in enumerate((*end, *product)):
        exchange[i] = plane
    plgpu.commit_smem()
    own = plgpu.broadcasted_iota(jnp.int32, _SHAPE, 0, layout=_EACH)
    start = spread(state)
    order = range(STREAMS)[::-1] if reverse else range(STREAMS)
    for stream in order:
        if stream != order[0]:
            here = spread(state)
            start = jnp.where(own == stream, here[0], start[0]), jnp.where(own == stream, here[1], start[1])
        ends, products = (load_channels([exchange.at[i], exchange.at[i + 1]], stream, 0) for i in (0, 2))
        state = times(products, state, ends)
    return start, state


def multiply(exchange: Any, total: Planes) -> Planes:
    """`total` times the products that `chain` has exchanged."""
    for stream in range(STREAMS):
        total = times(load_channels([exchange.at[2], exchange.at[3]], stream, 0), total)
    return total


def send(staged: Sequence[Any], slot: jax.Array, refs: Sequence[Any], *index: Any) -> None:
    """Copy tiles that were written to `slot` to their place in global memory, as one group."""
    plgpu.commit_smem()
    for i, (tile, ref) in enumerate(zip(staged, refs, strict=True)):
        plgpu.copy_smem_to_gmem(tile.at[slot], ref.at[index], commit_group=i + 1 == len(refs))


def place() -> tuple[jax.Array, jax.Array, Any]:
    """The row, the tile of channels and the channels that this block owns."""
    tile = lax.axis_index("tile")
    return lax.axis_index("row"), tile, pl.ds(tile * LANES, LANES)


def spec(*block: int | None, index: Callable) -> Any:
    """Blocks of such a shape, None for a dimension of which one is taken, at `index(step of the pipeline)`."""
    return plgpu.BlockSpec(tuple(pl.Squeezed() if size is None else size for size in block), index)


def pipeline(body: Callable, refs: Any, specs: Any, steps: int, carry: Any, *, num_staged: int) -> Any:
    """Run `body(step, tiles, carry) -> carry` over tiles that stream into shared memory; refs, specs, tiles: pytrees.

    `num_staged` tiles of the output have two slots each beside them.
    """
    refs, tree = jax.tree.flatten(refs)
    specs = jax.tree.leaves(specs)
    stage_bytes = sum(4 * math.prod(size for size in spec.block_shape if isinstance(size, int)) for spec in specs)
    reserved = 4 * (2 * num_staged * TILE * LANES + 4 * STREAMS * LANES)
    return plgpu.emit_pipeline(
        lambda index, *rest: body(index[0], tree.unflatten(rest[:-1]), rest[-1]),
        grid=(steps,),
        in_specs=specs,
        max_concurrent_steps=min(_MAX_STAGES, (_SMEM_BYTES - reserved) // stage_bytes),
        init_carry=carry,
    )(*refs)


def launch(body: Callable, inputs: Any, out_shapes: Any, *, rows: int, channels: int, num_staged: int) -> Any:
    """Run `body(inputs, outputs, exchange, staged)` for each row and tile of channels, of refs in the same pytrees."""
    operands, in_tree = jax.tree.flatten(inputs)
    shapes, out_tree = jax.tree.flatten(out_shapes, is_leaf=lambda x: isinstance(x, tuple) and isinstance(x[0], int))

    def kernel(*refs):
        ins, outs, (exchange, *staged) = (
            refs[: len(operands)],
            refs[len(operands) : len(operands) + len(shapes)],
            refs[len(operands) + len(shapes) :],
        )
        body(in_tree.unflatten(ins), out_tree.unflatten(outs), exchange, staged)
        plgpu.wait_smem_to_gmem(0)

    slots = plgpu.SMEM((2, STREAMS, STEPS, LANES), jnp.float32)
    outputs = plgpu.kernel(
        kernel,
        out_type=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
        scratch_types=[plgpu.SMEM((4, *_SHAPE), jnp.float32), *[slots] * num_staged],
        grid=(rows, channels // LANES),
        grid_names=("row", "tile"),
        compiler_params=plgpu.CompilerParams(unsafe_no_auto_barriers=True),
    )(*operands)
    return out_tree.unflatten(outputs)


def _load(ref: Any, index: tuple, layout: Any) -> jax.Array:
    return plgpu.load(ref.at[index], layout=layout, optimized=False)


def _steps(tile: jax.Array) -> list[jax.Array]:
    return [lax.slice(tile, (0, step, 0), (STREAMS, step + 1, LANES)) for step in range(STEPS)]


def _spread(x: jax.Array, dim: int) -> jax.Array:
    return lax.broadcast_in_dim(x, _SHAPE, (dim,))
