"""The three Hopper kernels of the scan: forward, backward, and what a chunk of time does to the state it starts from.

Arrays hold R rows of time cut into I groups of STEPS steps and N channels: planes are [R I, STEPS, N], since TMA copies
have five dimensions at most and Mosaic adds two, keep is [R, I, STEPS], and a coefficient for all steps [N]. See `gpu`
for the equations.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.diagonal_scan import gpu_tiles as tiles
from pallas_kernels.diagonal_scan.gpu_tiles import LANES, STEPS, STREAMS
from pallas_kernels.diagonal_scan.planes import Planes, conj, each, scale, times


def forward(a: Planes, x: Planes, keep: jax.Array, start_RN: Planes) -> Planes:
    """Return h, from the states before the rows."""
    shape, (R, N) = x[0].shape, start_RN[0].shape
    return tiles.launch(_forward, (a, x, keep, start_RN), (shape, shape), rows=R, channels=N, num_staged=2)


def backward_constant(a_N: Planes, h: Planes, d_h: Planes, keep: jax.Array, end_RN: Planes):
    """Return d_x, d_a of each row and stream but for what h0 adds, [R, STREAMS, 1, N], and u_{-1} of the rows, [R, N].

    end_RN: u after the rows.
    """
    shape, (R, N) = h[0].shape, end_RN[0].shape
    out_shapes = ((shape, shape), ((R, STREAMS, 1, N),) * 2, ((R, N),) * 2)
    return tiles.launch(_backward_constant, (a_N, h, d_h, keep, end_RN), out_shapes, rows=R, channels=N, num_staged=2)


def backward_per_step(a: Planes, h: Planes, d_h: Planes, keep: jax.Array, end_RN: Planes, before: Planes):
    """Return d_x, d_a and v_{-1} of the rows, [R, N].

    end_RN: v after the rows; before: h of the step before each group, [R I, 1, N].
    """
    shape, (R, N) = h[0].shape, end_RN[0].shape
    inputs, out_shapes = (a, h, d_h, keep, end_RN, before), ((shape, shape), (shape, shape), ((R, N),) * 2)
    return tiles.launch(_backward_per_step, inputs, out_shapes, rows=R, channels=N, num_staged=4)


def summarise(a: Planes, x: Planes, keep: jax.Array, *, reverse: bool) -> tuple[Planes, Planes]:
    """Return the end state of each row from state 0, and the product of its coefficients, [R, N].

    With `reverse` the state is that of the backward pass and x is d_h.
    """
    R, N = keep.shape[0], x[0].shape[-1]
    body = functools.partial(_summarise, reverse=reverse)
    return tiles.launch(body, (a, x, keep), (((R, N),) * 2,) * 2, rows=R, channels=N, num_staged=0)


def _forward(inputs: Any, h: Any, exchange: Any, staged: Any) -> None:
    a, x, keep, start = inputs
    row, tile, channels = tiles.place()
    a_of, a_ref = _coefficient(a, channels)
    num_tiles = keep.shape[1] // STREAMS

    def step(i, refs, state):
        a, x, keep = refs
        x = tiles.load_steps(x)
        c = [scale(k, a_s) for k, a_s in zip(tiles.load_keep(keep), a_of(a), strict=True)]
        end, product = tiles.run(c, x)
        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
        h_s, state = tiles.chain(exchange, end, product, state, reverse=False)
        slot = lax.rem(i, 2)
        steps = []
        for c_s, x_s in zip(c, x, strict=True):
            h_s = times(c_s, h_s, x_s)
            steps.append(h_s)
        tiles.store(staged, tiles.join(steps), slot)
        tiles.send(staged, slot, h, _groups(row * num_tiles + i), slice(None), channels)
        return state

    plane, factors = _specs(row, tile, num_tiles, reverse=False)
    refs, specs = (a_ref, x, keep), (_like(a_ref, plane), (plane, plane), factors)
    tiles.pipeline(step, refs, specs, num_tiles, tiles.load_channels(start, row, channels), num_staged=2)


def _backward_constant(inputs: Any, outputs: Any, exchange: Any, staged: Any) -> None:
    a, h, d_h, keep, end = inputs
    d_x, d_a, first = outputs
    row, tile, channels = tiles.place()
    a = tiles.spread(tiles.load_channels(a, channels))
    num_tiles = keep.shape[1] // STREAMS

    def step(i, refs, carry):
        h, d_h, keep = refs
        state, d_a = carry
        keep, d_h = tiles.load_keep(keep)[::-1], tiles.load_steps(d_h)[::-1]
        c = [scale(k, conj(a)) for k in keep]
        end, product = tiles.run(c, [scale(k, d) for k, d in zip(keep, d_h, strict=True)])
        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
        u, state = tiles.chain(exchange, end, product, state, reverse=True)
        slot = lax.rem(i, 2)
        g, of_tile = [], None  # a sum of sums rounds less than one long sum
        for h_s, k, d in zip(tiles.load_steps(h)[::-1], keep, d_h, strict=True):
            of_tile = times(conj(h_s), u, of_tile)
            g.append(times(conj(a), u, d))
            u = scale(k, g[-1])
        tiles.store(staged, tiles.join(g[::-1]), slot)
        tiles.send(staged, slot, d_x, _groups((row + 1) * num_tiles - 1 - i), slice(None), channels)
        return state, each(jnp.add, d_a, of_tile)

    plane, factors = _specs(row, tile, num_tiles, reverse=True)
    carry = tiles.load_channels(end, row, channels), (tiles.full(0), tiles.full(0))
    refs, specs = (h, d_h, keep), ((plane, plane), (plane, plane), factors)
    state, total = tiles.pipeline(step, refs, specs, num_tiles, carry, num_staged=2)
    tiles.store(first, state, row, channels)
    tiles.store(d_a, total, row, slice(None), slice(None), channels)


def _backward_per_step(inputs: Any, outputs: Any, exchange: Any, staged: Any) -> None:
    a, h, d_h, keep, end, before = inputs
    d_x, d_a, first = outputs
    row, tile, channels = tiles.place()
    num_tiles = keep.shape[1] // STREAMS

    def step(i, refs, state):
        a, h, d_h, keep, before = refs
        keep, d_h = tiles.load_keep(keep)[::-1], tiles.load_steps(d_h)[::-1]
        c = [scale(k, conj(a_s)) for k, a_s in zip(keep, tiles.load_steps(a)[::-1], strict=True)]
        end, product = tiles.run(c, [times(c_s, d) for c_s, d in zip(c, d_h, strict=True)])
        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
        v, state = tiles.chain(exchange, end, product, state, reverse=True)
        slot = lax.rem(i, 2)
        previous = [tiles.load(before), *tiles.load_steps(h)[:-1]][::-1]
        g, to_a = [], []
        for h_s, k, c_s, d in zip(previous, keep, c, d_h, strict=True):
            g.append(each(jnp.add, d, v))
            to_a.append(times(conj(h_s), scale(k, g[-1])))
            v = times(c_s, g[-1])
        tiles.store(staged[:2], tiles.join(g[::-1]), slot)
        tiles.store(staged[2:], tiles.join(to_a[::-1]), slot)
        tiles.send(staged, slot, (*d_x, *d_a), _groups((row + 1) * num_tiles - 1 - i), slice(None), channels)
        return state

    plane, factors = _specs(row, tile, num_tiles, reverse=True)
    border = tiles.spec(STREAMS, 1, LANES, index=lambda i: ((row + 1) * num_tiles - 1 - i, 0, tile))
    refs, specs = (a, h, d_h, keep, before), (*((plane, plane),) * 3, factors, (border, border))
    end = tiles.load_channels(end, row, channels)
    tiles.store(first, tiles.pipeline(step, refs, specs, num_tiles, end, num_staged=4), row, channels)


def _summarise(inputs: Any, outputs: Any, exchange: Any, staged: Any, *, reverse: bool) -> None:
    del staged
    a, x, keep = inputs
    row, tile, channels = tiles.place()
    a_of, a_ref = _coefficient(a, channels)
    num_tiles = keep.shape[1] // STREAMS

    def step(i, refs, carry):
        del i
        a, x, keep = refs
        state, total = carry
        order = slice(None, None, -1 if reverse else 1)
        keep, x, a = tiles.load_keep(keep)[order], tiles.load_steps(x)[order], a_of(a)[order]
        c = [scale(k, conj(a_s) if reverse else a_s) for k, a_s in zip(keep, a, strict=True)]
        if reverse and a_ref:
            x = [times(c_s, d) for c_s, d in zip(c, x, strict=True)]
        elif reverse:
            x = [scale(k, d) for k, d in zip(keep, x, strict=True)]
        end, product = tiles.run(c, x)
        _, state = tiles.chain(exchange, end, product, state, reverse=reverse)
        total = tiles.multiply(exchange, total)
        plgpu.commit_smem()  # all have read: the tiles and the exchange may be overwritten
        return state, total

    plane, factors = _specs(row, tile, num_tiles, reverse=reverse)
    refs, specs = (a_ref, x, keep), (_like(a_ref, plane), (plane, plane), factors)
    zero, one = tiles.full_channels(0), tiles.full_channels(1)
    results = tiles.pipeline(step, refs, specs, num_tiles, ((zero, zero), (one, zero)), num_staged=0)
    for out, value in zip(outputs, results, strict=True):
        tiles.store(out, value, row, channels)


def _coefficient(a: Any, channels: Any):
    """How a tile of coefficients becomes one for each step, and what to stream for it: nothing if it is constant."""
    if len(a[0].shape) > 1:
        return tiles.load_steps, a
    constant = tiles.spread(tiles.load_channels(a, channels))
    return lambda _: [constant] * STEPS, ()


def _like(refs: Any, spec: Any) -> tuple:
    return (spec,) * len(refs)


def _groups(tile: jax.Array) -> Any:
    return pl.ds(tile * STREAMS, STREAMS)


def _specs(row: jax.Array, tile: jax.Array, num_tiles: int, *, reverse: bool) -> tuple[Any, Any]:
    """Which blocks of planes and of keep a step of the pipeline loads."""
    at = (lambda i: num_tiles - 1 - i) if reverse else (lambda i: i)
    plane = tiles.spec(STREAMS, STEPS, LANES, index=lambda i: (row * num_tiles + at(i), 0, tile))
    return plane, tiles.spec(None, STREAMS, STEPS, index=lambda i: (row, at(i), 0))
