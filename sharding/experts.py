"""Rows to the device that owns their group, through its matrices, and back: the exchange of a mixture of experts.

Nothing is dropped and nothing is padded on the wire. Every device of the axis learns how many rows each other one has
for each group. The rows bound for one owner, in the order of their groups, then pass through a buffer of a fixed size
window by window: one window where the owners have about equal work, more of them where they have not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["Exchange", "through_groups"]

# (weights, rows of the groups one after the other [C,D], sizes of the groups) -> rows [C,D]; rows of no group are 0.
Apply = Callable[[Any, jax.Array, jax.Array], jax.Array]

ROOM = 1.5  # rows that an owner's buffer holds, as a multiple of those that each device sends


def through_groups(
    apply: Apply,
    weights: Any,
    x_MD: jax.Array,
    group_Mk: jax.Array,
    num_groups: int,
    axis: str | None = None,
    beside: Callable[[Any, jax.Array], jax.Array] | None = None,
    beside_weights: Any = None,
) -> tuple[jax.Array, jax.Array | None]:
    """y_MkD: row m through `apply` once for each of its k groups, and z_MD = beside(beside_weights, x_MD) if given.

    With an `axis` this runs inside a `shard_map` over it: `weights` are those of this device's groups, `num_groups` /
    (devices of the axis) of them, in order; x_MD and group_Mk, whose numbers are global, are this device's rows. One
    way moves at most M k rows a device, on average those of other owners, M k (n - 1) / n: by ragged all-to-all on TPU
    and GPU, and by gathering all devices' rows, n M k of them, on a CPU, where XLA has none. `beside` is computed
    while the rows are on their way, and so is its backward pass while the rows' gradients are on their way back.
    The backward pass sends rows the same two ways. It keeps the first window's intermediates, as differentiating
    `apply` would, and computes those of further windows again.
    """
    order_R = jnp.argsort(group_Mk.reshape(-1), stable=True)  # (row, choice) pairs sorted by group
    sizes_E = jnp.bincount(group_Mk.reshape(-1), length=num_groups).astype(jnp.int32)
    if axis is None:
        y_RD = apply(weights, _sorted(x_MD, order_R), sizes_E)
        z_MD = None if beside is None else beside(beside_weights, x_MD)
    else:
        counts_sE = lax.all_gather(sizes_E, axis)
        y_RD, z_MD = _in_windows(apply, beside, axis, (weights, beside_weights), x_MD, order_R, counts_sE)
    return y_RD.at[jnp.argsort(order_R)].get(unique_indices=True).reshape(*group_Mk.shape, -1), z_MD


def _sorted(x_MD: jax.Array, order_R: jax.Array) -> jax.Array:
    # Repeat, then permute: every row is read once, so the gradient is a permutation and a sum of fixed order.
    return jnp.repeat(x_MD, order_R.size // x_MD.shape[0], axis=0).at[order_R].get(unique_indices=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _in_windows(apply, beside, axis, weights, x_MD, order_R, counts_sE):
    return _forward(apply, beside, axis, weights, x_MD, order_R, counts_sE)[0]


def _forward(apply, beside, axis, weights, x_MD, order_R, counts_sE):
    exchange = Exchange.of(counts_sE, order_R.size, axis)
    x_RD = _sorted(x_MD, order_R)

    def first(weights, x_MD, x_CD):
        z_MD = None
        if beside is not None:
            # Before the groups' matrices, so that there is work while x_CD is awaited.
            x_CD, z_MD = lax.optimization_barrier((x_CD, beside(weights[1], x_MD)))
        return apply(weights[0], x_CD, exchange.group_sizes(0)), z_MD

    def another(window, y_RD):
        y_CD = apply(weights[0], exchange.send(x_RD, window), exchange.group_sizes(window))
        return exchange.give_back(y_CD, y_RD, window)

    (y_CD, z_MD), pull_back = jax.vjp(first, weights, x_MD, exchange.send(x_RD, 0))
    y_RD = exchange.give_back(y_CD, jnp.zeros_like(y_CD, shape=(order_R.size, *y_CD.shape[1:])), 0)
    return (exchange.others(another, y_RD), z_MD), (pull_back, weights[0], x_MD, order_R, counts_sE)


def _backward(apply, beside, axis, kept, d_y_and_z):
    del beside
    pull_back, weights, x_MD, order_R, counts_sE = kept
    d_y_RD, d_z_MD = d_y_and_z
    exchange = Exchange.of(counts_sE, order_R.size, axis)
    (d_weights, d_beside_weights), d_x_MD, d_x_CD = pull_back((exchange.send(d_y_RD, 0), d_z_MD))
    x_RD, to_rows = jax.vjp(lambda x_MD: _sorted(x_MD, order_R), x_MD)

    def another(window, so_far):
        d_weights, d_x_RD = so_far
        run = lambda weights, x_CD: apply(weights, x_CD, exchange.group_sizes(window))  # noqa: E731
        _, pull_back = jax.vjp(run, weights, exchange.send(x_RD, window))
        more, d_x_CD = pull_back(exchange.send(d_y_RD, window))
        return jax.tree.map(jnp.add, d_weights, more), exchange.give_back(d_x_CD, d_x_RD, window)

    d_x_RD = exchange.give_back(d_x_CD, jnp.zeros_like(x_RD), 0)
    d_weights, d_x_RD = exchange.others(another, (d_weights, d_x_RD))
    return (d_weights, d_beside_weights), d_x_MD + to_rows(d_x_RD)[0], None, None


_in_windows.defvjp(_forward, _backward)


def _capacity(num_devices: int, num_rows: int) -> int:
    """Rows that a buffer holds. No owner gets more than all rows of all devices."""
    return min(num_devices * num_rows, -(-int(ROOM * num_rows) // 128) * 128)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Exchange:
    """Who sends which rows where, inside a `shard_map`.

    An owner's rows are in the order of its groups and, within a group, of the devices they come from. A window holds
    `capacity` of them: those from window * capacity on. n devices own e groups each.

    begin_neS, end_neS: place of each slice in its owner's order: of owner n, its group e, from device S.
    first_SE: where each device's own rows of each group begin, since they are sorted by group.
    """

    begin_neS: jax.Array
    end_neS: jax.Array
    first_SE: jax.Array
    axis: str = dataclasses.field(metadata={"static": True})
    capacity: int = dataclasses.field(metadata={"static": True})
    most: int = dataclasses.field(metadata={"static": True})  # windows in the worst case

    @classmethod
    def of(cls, counts_SE: jax.Array, num_rows: int, axis: str) -> Exchange:
        n, capacity = counts_SE.shape[0], _capacity(counts_SE.shape[0], num_rows)
        counts_neS = counts_SE.T.reshape(n, -1, n)
        end_neS = jnp.cumsum(counts_neS.reshape(n, -1), axis=1).reshape(counts_neS.shape)
        first_SE = jnp.cumsum(counts_SE, axis=1) - counts_SE
        return cls(end_neS - counts_neS, end_neS, first_SE, axis, capacity, -(-n * num_rows // capacity))

    @property
    def needed(self) -> jax.Array:
        """int32[]: windows that hold rows."""
        return -(-jnp.max(self.end_neS) // self.capacity)

    def others(self, another: Callable[[jax.Array, Any], Any], so_far: Any) -> Any:
        """Fold `another(window, so_far)` over all windows but the first, which few batches need."""
        if self.most == 1:
            return so_far
        # The same number on every device of the mesh, also where other groups of devices have less to exchange.
        needed = lax.pmax(self.needed, tuple(jax.sharding.get_abstract_mesh().axis_names))
        return lax.fori_loop(1, needed, another, so_far)

    def group_sizes(self, window: Any) -> jax.Array:
        """Rows of each of this device's groups in the window."""
        lo_neS, hi_neS = self._cut(window)
        return (hi_neS - lo_neS)[lax.axis_index(self.axis)].sum(1)

    def send(self, x_RD: jax.Array, window: Any) -> jax.Array:
        """This device's rows to their owners; returns the window of those that it owns, filled up with zeros."""
        sent, received = self._slices(window)
        empty_CD = jnp.zeros_like(x_RD, shape=(self.capacity, *x_RD.shape[1:]))
        return _exchange(x_RD, empty_CD, sent.at_source, sent.size, sent.at_owner, received.size, self.axis)

    def give_back(self, y_CD: jax.Array, y_RD: jax.Array, window: Any) -> jax.Array:
        """The window's rows to where they came from, written into y_RD."""
        sent, received = self._slices(window)
        return _exchange(y_CD, y_RD, received.at_owner, received.size, received.at_source, sent.size, self.axis)

    def _cut(self, window: Any) -> tuple[jax.Array, jax.Array]:
        first = window * self.capacity
        cut = functools.partial(jnp.clip, min=first, max=first + self.capacity)
        return cut(self.begin_neS), cut(self.end_neS)

    def _slices(self, window: Any) -> tuple[_Slices, _Slices]:
        """What this device sends, by owner and group, and what it receives, by device and group."""
        lo_neS, hi_neS = self._cut(window)
        size_neS, me = hi_neS - lo_neS, lax.axis_index(self.axis)
        at_owner_neS = lo_neS - window * self.capacity
        at_source_neS = self.first_SE.T.reshape(size_neS.shape) + lo_neS - self.begin_neS
        slices = _Slices(size_neS, *(jnp.where(size_neS > 0, x, 0) for x in (at_owner_neS, at_source_neS)))
        sent = jax.tree.map(lambda x_neS: x_neS[:, :, me].reshape(-1), slices)
        return sent, jax.tree.map(lambda x_neS: x_neS[me].T.reshape(-1), slices)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Slices:
    """Rows of one group from one device: how many, where in the owner's window and where in the device's rows."""

    size: jax.Array
    at_owner: jax.Array
    at_source: jax.Array


def _exchange(operand, output, input_offsets, send_sizes, output_offsets, recv_sizes, axis: str) -> jax.Array:
    run = functools.partial(lax.ragged_all_to_all, axis_name=axis)
    arguments = (operand, output, input_offsets, send_sizes, output_offsets, recv_sizes)
    return lax.platform_dependent(*arguments, cpu=functools.partial(_exchange_on_cpu, axis=axis), default=run)


def _exchange_on_cpu(operand, output, input_offsets, send_sizes, output_offsets, recv_sizes, *, axis: str):
    """`lax.ragged_all_to_all`, which XLA lacks on CPUs: every device gets all rows and picks its own."""
    del send_sizes
    begin_K, input_K = (lax.all_to_all(x_K, axis, 0, 0, tiled=True) for x_K in (output_offsets, input_offsets))
    slices_per_device = begin_K.size // lax.axis_size(axis)
    row_C = jnp.arange(output.shape[0])
    inside_CK = (begin_K <= row_C[:, None]) & (row_C[:, None] < begin_K + recv_sizes)
    slice_C = jnp.argmax(inside_CK, axis=1)
    source_C = slice_C // slices_per_device * operand.shape[0] + input_K[slice_C] + row_C - begin_K[slice_C]
    received = lax.all_gather(operand, axis, tiled=True)[source_C]
    return jnp.where(inside_CK.any(1)[:, None], received, output)
