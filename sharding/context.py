"""Exchanges along a mesh axis that holds consecutive pieces of one dim: neighbours, halo, prefix, zigzag and ring.

All run inside `jax.shard_map`, are differentiable and know nothing of what they move. Shard i of n holds piece i.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def shifted(tree: Any, axis: str, by: int, empty: Any = 0) -> Any:
    """What shard i - by holds, in shard i; `empty` where there is no such shard."""
    n = lax.axis_size(axis)
    source = lax.axis_index(axis) - by
    pairs = [(i, i + by) for i in range(n) if 0 <= i + by < n]

    def move(x: jax.Array) -> jax.Array:
        return jnp.where((source >= 0) & (source < n), lax.ppermute(x, axis, pairs), jnp.asarray(empty, x.dtype))

    return jax.tree.map(move, tree)


def halo(x: jax.Array, axis: str, *, before: int, after: int = 0, dim: int = 1) -> jax.Array:
    """`x` with the `before` entries that precede it along `dim` and the `after` that follow; 0 beyond the ends.

    Moves no more than these entries. They may come from several shards on either side.
    """
    size = x.shape[dim]

    def pieces(count: int, sign: int) -> list[jax.Array]:
        """From the nearest shard to the farthest."""
        found = []
        for distance in range(1, -(-count // size) + 1):
            needed = min(size, count - (distance - 1) * size)
            first = size - needed if sign > 0 else 0
            found.append(shifted(lax.slice_in_dim(x, first, first + needed, axis=dim), axis, sign * distance))
        return found

    return jnp.concatenate([*reversed(pieces(before, 1)), x, *pieces(after, -1)], axis=dim)


def prefix(combine: Callable[[Any, Any], Any], tree: Any, axis: str, *, empty: Any = 0, reverse: bool = False) -> Any:
    """`combine` over the shards before this one (`reverse`: after it), nearest last; `empty` in the first.

    combine(farther, nearer) is associative. ceil(log2 n) + 1 exchanges of one `tree` each (Hillis and Steele, 1986).
    """
    n, index = lax.axis_size(axis), lax.axis_index(axis)
    sign, rank = (-1, n - 1 - index) if reverse else (1, index)
    distance = 1
    while distance < n:
        both = combine(shifted(tree, axis, sign * distance), tree)
        tree = jax.tree.map(lambda b, x, d=distance: jnp.where(rank >= d, b, x), both, tree)
        distance *= 2
    return shifted(tree, axis, sign, empty)


def to_zigzag(x: jax.Array, axis: str, dim: int = 1) -> jax.Array:
    """From pieces in order to chunks i and 2n - 1 - i of 2n, in shard i: under a causal mask all have equal work.

    Two exchanges of half a shard each, about one shard in all; `from_zigzag` costs the same.
    """
    n = lax.axis_size(axis)
    even, odd = jnp.split(x, 2, axis=dim)  # chunks 2i and 2i + 1
    even = lax.ppermute(even, axis, [(i, _home(2 * i, n)) for i in range(n)])
    odd = lax.ppermute(odd, axis, [(i, _home(2 * i + 1, n)) for i in range(n)])
    return jnp.concatenate(_swapped(even, odd, axis), axis=dim)


def from_zigzag(x: jax.Array, axis: str, dim: int = 1) -> jax.Array:
    """The inverse of `to_zigzag`."""
    n = lax.axis_size(axis)
    low, high = jnp.split(x, 2, axis=dim)
    even, odd = _swapped(low, high, axis)
    even = lax.ppermute(even, axis, [(_home(2 * i, n), i) for i in range(n)])
    odd = lax.ppermute(odd, axis, [(_home(2 * i + 1, n), i) for i in range(n)])
    return jnp.concatenate([even, odd], axis=dim)


def zigzag_place(index: jax.Array, shard: jax.Array, size: int, num_shards: int) -> jax.Array:
    """How many of the entries before `index` lie in a shard of `size` entries in zigzag order.

    An interval [lo, hi) of all entries is [place(lo), place(hi)) of the shard's, as order is kept.
    """
    half = size // 2
    low, high = shard * half, (2 * num_shards - 1 - shard) * half
    return jnp.clip(index - low, 0, half) + jnp.clip(index - high, 0, half)


def ring(
    visit: Callable[[Any, Any, jax.Array], tuple[Any, Any]], block: Any, carry: Any, axis: str, share: Any = ()
) -> tuple[Any, Any]:
    """Fold `visit` over the blocks of all shards, beginning with the own one; they travel while others are visited.

    visit(carry, block, source) -> (carry, share): `source` is the shard the block comes from; the shares of all shards
    in a block are added up on its way and come home with it. `share` is a zero like them.

    Returns the carry and the own block's share. Each shard sends its block n - 1 times and shares n times; it holds two
    blocks and two shares at once.
    """
    n, index = lax.axis_size(axis), lax.axis_index(axis)
    if n == 1:
        return visit(carry, block, index)
    pairs = [(i, (i + 1) % n) for i in range(n)]
    onward = lambda tree: jax.tree.map(lambda x: lax.ppermute(x, axis, pairs), tree)  # noqa: E731
    add = lambda x, y: jax.tree.map(jnp.add, x, y)  # noqa: E731

    def step(state, distance):
        carry, block, share = state
        following, share = onward(block), onward(share)  # neither needs what this visit computes
        carry, more = visit(carry, block, (index - distance) % n)
        return (carry, following, add(share, more)), None

    first = 0
    if jax.tree.leaves(share):  # the first share has nowhere to come from
        following, first = onward(block), 1
        carry, share = visit(carry, block, index)
        block = following
    if first < n - 1:
        (carry, block, share), _ = lax.scan(step, (carry, block, share), jnp.arange(first, n - 1))
    share = onward(share)
    carry, more = visit(carry, block, (index + 1) % n)
    return carry, onward(add(share, more))


def _home(chunk: int, n: int) -> int:
    """The shard of a chunk in zigzag order."""
    return min(chunk, 2 * n - 1 - chunk)


def _swapped(x: jax.Array, y: jax.Array, axis: str) -> tuple[jax.Array, jax.Array]:
    """(x, y), or (y, x) in shards of odd index."""
    is_even = lax.axis_index(axis) % 2 == 0
    return jnp.where(is_even, x, y), jnp.where(is_even, y, x)
