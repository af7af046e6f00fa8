"""The diagonal recurrence on a mesh: rows over the batch axes, states over `tensor`, slots over `context`.

Each shard scans its own slots from state 0, one carry a shard is exchanged, and what the state before the shard adds
is put on top: h_t = local_t + a^(t+1) h_before, up to the shard's first reset.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from pallas_kernels.diagonal_scan import diagonal_scan
from sharding.context import prefix
from sharding.mesh import ambient_mesh, token_spec

AXIS = "context"
Planes = tuple[jax.Array, jax.Array]  # real and imaginary part

_TABLE = 128  # powers come from two tables of about this length: their product fuses with what it is used in


def scan(a: Planes, x_BTN: Planes, keep_BT: jax.Array, **options: Any) -> Planes:
    """h_BTN of `diagonal_scan` with a_N the same for all steps, from state 0.

    Raises:
        ValueError: rows or slots that the mesh does not divide.
    """
    mesh = ambient_mesh()
    if mesh is None:
        return diagonal_scan(*a, *x_BTN, keep_BT, **options)[:2]
    slots = token_spec(mesh, *keep_BT.shape)
    local = functools.partial(_local, spread=mesh.shape[AXIS] > 1, **options)
    states, spread_states = PartitionSpec("tensor"), PartitionSpec(*slots, "tensor")
    sharded = jax.shard_map(local, in_specs=(states, spread_states, slots), out_specs=spread_states, check_vma=False)
    return sharded(a, x_BTN, keep_BT)


def _local(a: Planes, x_BTN: Planes, keep_BT: jax.Array, *, spread: bool, **options: Any) -> Planes:
    h_re, h_im, last_BN = diagonal_scan(*a, *x_BTN, keep_BT, **options)
    if not spread:
        return h_re, h_im
    reached_BT = lax.cummin(keep_BT, axis=1)  # 1 until the first reset
    return _corrected(a, (h_re, h_im), last_BN, reached_BT)


@jax.checkpoint
def _corrected(a: Planes, h_BTN: Planes, last_BN: Planes, reached_BT: jax.Array) -> Planes:
    """The powers are made again for the gradient, as they are as large as h."""
    powers_TN = powers(a, reached_BT.shape[1])
    decay_BN = _times(tuple(x_TN[-1] for x_TN in powers_TN), (reached_BT[:, -1:], jnp.zeros_like(reached_BT[:, -1:])))

    def after(first, second):
        """Two shards, one after the other, each as (decay, last state)."""
        carried = _times(second[0], first[1])
        return _times(second[0], first[0]), (carried[0] + second[1][0], carried[1] + second[1][1])

    _, before_BN = prefix(after, (decay_BN, last_BN), AXIS)
    more_BTN = _times(powers_TN, tuple(x_BN[:, None] * reached_BT[..., None] for x_BN in before_BN))
    return h_BTN[0] + more_BTN[0], h_BTN[1] + more_BTN[1]


def powers(a: Planes, count: int) -> Planes:
    """a^1 .. a^count along a new first dim, by products alone; a is [N]."""
    size = min(_TABLE, count)
    fine_re, fine_im = _doubled(a, size)
    step = fine_re[-1], fine_im[-1]
    one, zero = jnp.ones_like(a[0])[None], jnp.zeros_like(a[0])[None]
    coarse_re, coarse_im = one, zero
    if (rest := -(-count // size) - 1) > 0:
        coarse_re, coarse_im = _joined((one, zero), _doubled(step, rest))
    re, im = _times((coarse_re[:, None], coarse_im[:, None]), (fine_re, fine_im))
    return re.reshape(-1, re.shape[-1])[:count], im.reshape(-1, im.shape[-1])[:count]


def _doubled(a: Planes, count: int) -> Planes:
    """a^1 .. a^count: a table of m powers times a^m is the next m."""
    table = a[0][None], a[1][None]
    while table[0].shape[0] < count:
        table = _joined(table, _times(table, (table[0][-1], table[1][-1])))
    return table[0][:count], table[1][:count]


def _joined(x: Planes, y: Planes) -> Planes:
    return jnp.concatenate([x[0], y[0]]), jnp.concatenate([x[1], y[1]])


def _times(x: Any, y: Any) -> Planes:
    return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]
