"""The diagonal scan on TPU: time in order, up to 256 steps of 1024 channels at a time, the state kept on chip between.

TPU memory holds [B,T,N] as tiles of 8 steps by 128 channels. One step of 1024 channels is one row of eight such tiles,
which a load with stride 8 brings into one full register. For Mosaic to see that, arrays come as [B, T/8, G, 8 C, 128]
with groups of C <= 8 tiles of channels: the same bytes, so XLA copies nothing. The arithmetic then works on full
registers, with neither a transposed copy in memory nor shuffles in the kernel; `keep` are scalars in SMEM.

All is read once and written once: with one coefficient for all steps 4 planes forward and 6 backward, of 4 B T N bytes.
`gpu` has the equations of the backward pass. h_{t-1} comes, at the edge of a block, from a window of 8 earlier steps.
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
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.diagonal_scan.planes import Planes, conj, each, pad, scale, times

_LANES, _ROWS = 128, 8
_BLOCK_STEPS = (256, 128, 64)  # of a grid step: the first that divides T, which is padded to the last
_VMEM_BYTES = 40 * 2**20  # backward with a coefficient for each step: ten planes of 1 MB, two of each


def unsupported(a: Any, x_BTN: Any) -> str | None:
    """Why this kernel cannot serve arrays of such shapes: there are none."""
    del a, x_BTN


def forward(a: Planes, x_BTN: Planes, keep_BT: jax.Array, h0_BN: Planes) -> Planes:
    """Return h_BTN, see the op."""
    view = _View(*x_BTN[0].shape)
    kind = "steps" if a[0].ndim == 3 else "coefficient"
    a, x, h0 = (view.fold(z) for z in (a, x_BTN, h0_BN))
    (h,) = view.launch(_forward, [(kind, a), ("steps", x), ("keep", view.keep(keep_BT)), ("state", h0)], ["steps"])
    return view.unfold(h)


def backward(
    a: Planes, keep_BT: jax.Array, h0_BN: Planes, h_BTN: Planes, d_h_BTN: Planes
) -> tuple[Planes, Planes, Planes]:
    """Return the gradients of a, x and h0, see the op."""
    view = _View(*h_BTN[0].shape)
    per_step = a[0].ndim == 3
    a, h, d_h, h0 = (view.fold(x) for x in (a, h_BTN, d_h_BTN, h0_BN))
    operands = [("steps", h), ("steps", d_h), ("keep", view.keep(keep_BT)), ("state", h0)]
    if per_step:
        operands = [("steps", a), *operands, ("before", h)]
        d_a, d_x, d_h0 = view.launch(_backward_per_step, operands, ["steps", "steps", "state"], reverse=True)
        return view.unfold(d_a), view.unfold(d_x), view.unfold(d_h0)
    operands = [("coefficient", a), *operands]
    d_a, d_x, d_h0 = view.launch(_backward_constant, operands, ["state", "steps", "state"], reverse=True)
    return each(lambda d_a_BN: d_a_BN.sum(0), view.unfold(d_a)), view.unfold(d_x), view.unfold(d_h0)


def _forward(a: Any, x: Any, keep: Any, h0: Any, h: Any, state: Any) -> None:
    @pl.when(_is_first())
    def _():
        _store(state, _load(h0))

    def eight(j, h_t):
        for t in range(_ROWS):
            a_t = _load_step(a, j, t) if len(a[0].shape) == 3 else _load(a)
            h_t = times(scale(keep[0, j * _ROWS + t], a_t), h_t, _load_step(x, j, t))
            _store_step(h, j, t, h_t)
        return h_t

    _store(state, lax.fori_loop(0, x[0].shape[0], eight, _load(state)))


def _backward_constant(a: Any, h: Any, d_h: Any, keep: Any, h0: Any, d_a: Any, d_x: Any, d_h0: Any, state: Any) -> None:
    @pl.when(_is_first())
    def _():
        for refs in (state, d_a):
            _store(refs, each(jnp.zeros_like, _load(refs)))

    a_conj = conj(_load(a))
    num = h[0].shape[0]

    def eight(i, carry):
        j = num - 1 - i
        u, total = carry
        for t in reversed(range(_ROWS)):
            total = times(conj(_load_step(h, j, t)), u, total)
            g = times(a_conj, u, _load_step(d_h, j, t))
            u = scale(keep[0, j * _ROWS + t], g)
            _store_step(d_x, j, t, g)
        return u, total

    # A sum of sums, one for each grid step, rounds less than one long sum.
    u, total = lax.fori_loop(0, num, eight, (_load(state), each(jnp.zeros_like, _load(state))))
    _store(state, u)
    _store(d_a, each(jnp.add, _load(d_a), total))

    @pl.when(_is_last())
    def _():
        _store(d_a, times(conj(_load(h0)), u, _load(d_a)))
        _store(d_h0, times(a_conj, u))


def _backward_per_step(
    a: Any, h: Any, d_h: Any, keep: Any, h0: Any, before: Any, d_a: Any, d_x: Any, d_h0: Any, state: Any
) -> None:
    @pl.when(_is_first())
    def _():
        _store(state, each(jnp.zeros_like, _load(state)))

    num = h[0].shape[0]
    edge = each(functools.partial(jnp.where, _is_last()), _load(h0), _load_step(before, 0, _ROWS - 1))

    def eight(i, v):
        j = num - 1 - i
        above = each(functools.partial(jnp.where, j == 0), edge, _load_step(h, jnp.maximum(j - 1, 0), _ROWS - 1))
        for t in reversed(range(_ROWS)):
            g = each(jnp.add, _load_step(d_h, j, t), v)
            kept = scale(keep[0, j * _ROWS + t], g)
            v = times(conj(_load_step(a, j, t)), kept)
            _store_step(d_x, j, t, g)
            _store_step(d_a, j, t, times(conj(_load_step(h, j, t - 1) if t else above), kept))
        return v

    _store(state, lax.fori_loop(0, num, eight, _load(state)))

    @pl.when(_is_last())
    def _():
        _store(d_h0, _load(state))


def _is_first() -> jax.Array:
    """Whether this is the first grid step of its row and channels: the latest one in time, going backward."""
    return pl.program_id(2) == 0


def _is_last() -> jax.Array:
    return pl.program_id(2) == pl.num_programs(2) - 1


def _load(refs: Any) -> Planes:
    return refs[0][...], refs[1][...]


def _store(refs: Any, value: Planes) -> None:
    refs[0][...], refs[1][...] = value


def _load_step(refs: Any, j: jax.Array | int, t: int) -> Planes:
    """[C, LANES]: all channels at row t of the j-th tiles of a block [steps / ROWS, ROWS C, LANES]."""
    re, im = (ref[j, pl.ds(t, ref.shape[1] // _ROWS, _ROWS), :] for ref in refs)
    return re, im


def _store_step(refs: Any, j: jax.Array, t: int, value: Planes) -> None:
    for ref, plane in zip(refs, value, strict=True):
        ref[j, pl.ds(t, ref.shape[1] // _ROWS, _ROWS), :] = plane


@dataclasses.dataclass(frozen=True)
class _View:
    """How the kernels see arrays of B, T, N: time in blocks, channels in G groups of C tiles, both padded."""

    B: int
    T: int
    N: int

    @property
    def block(self) -> int:
        """Steps of a block."""
        return next(steps for steps in _BLOCK_STEPS if self.padded_T % steps == 0)

    @property
    def padded_T(self) -> int:
        return -(-self.T // _BLOCK_STEPS[-1]) * _BLOCK_STEPS[-1]

    @property
    def C(self) -> int:
        tiles = -(-self.N // _LANES)
        return next(tiles_of_group for tiles_of_group in range(_ROWS, 0, -1) if tiles % tiles_of_group == 0)

    def fold(self, x: Planes) -> Planes:
        """[B,T,N] -> [B, T / ROWS, G, ROWS C, LANES]; [B,N] -> [B, G, C, LANES]; [N] -> [G, C, LANES]."""

        def fold(x):
            x = pad(x, x.ndim - 1, _LANES)
            if x.ndim < 3:
                return x.reshape(*x.shape[:-1], -1, self.C, _LANES)
            x = pad(x, 1, self.block)
            x = x.reshape(self.B, x.shape[1] // _ROWS, _ROWS, -1, self.C, _LANES)
            x = jnp.transpose(x, (0, 1, 3, 4, 2, 5))
            return x.reshape(*x.shape[:3], -1, _LANES)

        return each(fold, x)

    def unfold(self, x: Planes) -> Planes:
        """Undo `fold` of [B,T,N] or [B,N]."""

        def unfold(x):
            if x.ndim == 4:
                return x.reshape(self.B, -1)[:, : self.N]
            x = x.reshape(*x.shape[:3], self.C, _ROWS, _LANES)
            x = jnp.transpose(x, (0, 1, 4, 2, 3, 5))
            return x.reshape(self.B, x.shape[1] * _ROWS, -1)[:, : self.T, : self.N]

        return each(unfold, x)

    def keep(self, keep_BT: jax.Array) -> jax.Array:
        """[B,T] -> [B, blocks, 1, steps of a block]; padding keeps nothing."""
        return pad(keep_BT, 1, self.block).reshape(self.B, -1, 1, self.block)

    def launch(
        self, kernel: Callable, operands: list[tuple[str, Any]], outputs: list[str], *, reverse: bool = False
    ) -> Any:
        """Run `kernel(*operands, *outputs, state)` over the grid (row, group, block of steps).

        An operand comes with what it holds, `outputs` are what they hold; all but keep are planes.
        """
        specs, G = self._specs(reverse), -(-self.N // (self.C * _LANES))
        rows = {"steps": (self.padded_T // _ROWS, G, _ROWS * self.C), "state": (G, self.C)}
        return pl.pallas_call(
            kernel,
            out_shape=[(jax.ShapeDtypeStruct((self.B, *rows[kind], _LANES), jnp.float32),) * 2 for kind in outputs],
            grid=(self.B, G, self.padded_T // self.block),
            in_specs=[specs[kind] if kind == "keep" else (specs[kind],) * 2 for kind, _ in operands],
            out_specs=[(specs[kind],) * 2 for kind in outputs],
            scratch_shapes=[(pltpu.VMEM((self.C, _LANES), jnp.float32),) * 2],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=_VMEM_BYTES
            ),
        )(*(operand for _, operand in operands))

    def _specs(self, reverse: bool) -> dict[str, pl.BlockSpec]:
        """Blocks by what they hold; `before`: the 8 steps before a block, or the first 8."""
        num_blocks, rows = self.padded_T // self.block, self.block // _ROWS
        at = (lambda i: num_blocks - 1 - i) if reverse else (lambda i: i)
        tiles = (None, _ROWS * self.C, _LANES)
        return {
            "keep": pl.BlockSpec(
                (None, None, 1, self.block), lambda b, g, i: (b, at(i), 0, 0), memory_space=pltpu.SMEM
            ),
            "steps": pl.BlockSpec((None, rows, *tiles), lambda b, g, i: (b, at(i), g, 0, 0)),
            "before": pl.BlockSpec((None, 1, *tiles), lambda b, g, i: (b, jnp.maximum(at(i) * rows - 1, 0), g, 0, 0)),
            "state": pl.BlockSpec((None, None, self.C, _LANES), lambda b, g, i: (b, g, 0, 0)),
            "coefficient": pl.BlockSpec((None, self.C, _LANES), lambda b, g, i: (g, 0, 0)),
        }
