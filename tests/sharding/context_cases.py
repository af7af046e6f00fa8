"""What the collectives of `sharding.context` give on eight devices, beside what they should."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from sharding import context

T = 48
x_T = np.random.default_rng(0).normal(size=(T, 3)).astype(np.float32)


def on(n: int, function):
    """`function` of pieces of the first dim on n devices, back as one array."""
    mesh = jax.make_mesh((n,), ("c",), devices=jax.devices()[:n], axis_types=(jax.sharding.AxisType.Auto,))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=P("c"), out_specs=P("c"), check_vma=False))


def halos(n: int, before: int, after: int) -> bool:
    got = on(n, functools.partial(context.halo, axis="c", before=before, after=after, dim=0))(x_T)
    padded = np.pad(x_T, ((before, after), (0, 0)))
    want = [padded[i : i + T // n + before + after] for i in range(0, T, T // n)]
    return np.array_equal(got, np.concatenate(want))


def halo_gradient(n: int, before: int, after: int) -> bool:
    """Every entry is in as many halos as its gradient says."""
    widened = on(n, functools.partial(context.halo, axis="c", before=before, after=after, dim=0))
    counted = jax.grad(lambda x: widened(x).sum())(x_T)[:, 0]
    held = [np.arange(max(i - before, 0), min(i + T // n + after, T)) for i in range(0, T, T // n)]
    return np.array_equal(counted, np.bincount(np.concatenate(held), minlength=T))


def zigzag(n: int) -> bool:
    chunks = np.split(x_T, 2 * n)
    want = np.concatenate([np.concatenate([chunks[i], chunks[2 * n - 1 - i]]) for i in range(n)])
    there = on(n, functools.partial(context.to_zigzag, axis="c", dim=0))
    back = on(n, functools.partial(context.from_zigzag, axis="c", dim=0))
    return np.array_equal(there(x_T), want) and np.array_equal(back(there(x_T)), x_T)


def places(n: int) -> bool:
    """[place(lo), place(hi)) are the entries of [lo, hi) that a shard holds, for all lo and hi."""
    index = np.arange(T + 1)
    for shard in range(n):
        half = T // (2 * n)
        held = [*range(shard * half, (shard + 1) * half), *range(T - (shard + 1) * half, T - shard * half)]
        want = [np.searchsorted(held, i) for i in index]
        if not np.array_equal(context.zigzag_place(jnp.array(index), jnp.int32(shard), T // n, n), want):
            return False
    return True


def prefixes(n: int, reverse: bool) -> bool:
    """An operation that does not commute: products of matrices."""
    m_n22 = np.random.default_rng(1).normal(size=(n, 2, 2)).astype(np.float32)
    combine = lambda farther, nearer: farther @ nearer  # noqa: E731
    got = on(n, lambda m: context.prefix(combine, m, "c", reverse=reverse))(m_n22)
    for i in range(n):
        others = m_n22[i + 1 :][::-1] if reverse else m_n22[:i]
        want = functools.reduce(np.matmul, others) if len(others) else np.zeros((2, 2))
        if not np.allclose(got[i], want, atol=1e-5):
            return False
    return True


def rings(n: int) -> bool:
    """The carry has met each block once, own one first; each block comes home with what every shard gave it."""

    def local(x):
        me = jax.lax.axis_index("c")

        def visit(carry, block, source):
            order, count = carry
            return (order.at[count].set(source), count + 1), block * (me + 1.0) + source

        carry = (jnp.zeros(n, jnp.int32), 0)
        (order, count), share = context.ring(visit, x, carry, "c", jnp.zeros_like(x))
        return order[None], jnp.array([count]), share

    order, count, share = on(n, local)(x_T)
    want = [[(i - step) % n for step in range(n)] for i in range(n)]
    weight, source = n * (n + 1) / 2, np.repeat(np.arange(n), T // n)[:, None]
    return (
        np.array_equal(order, want)
        and set(np.array(count)) == {n}
        and np.allclose(share, x_T * weight + n * source, atol=1e-4)
    )


CASES = {
    **{f"halo {n} {b} {a}": (halos, n, b, a) for n, b, a in [(2, 5, 0), (4, 3, 2), (8, 20, 7), (8, 0, 1), (8, 47, 47)]},
    **{f"halo gradient {n}": (halo_gradient, n, 13, 4) for n in (2, 8)},
    **{f"{f.__name__} {n}": (f, n) for f in (zigzag, places, rings) for n in (2, 3, 4, 8)},
    **{f"prefix {n} {r}": (prefixes, n, r) for n in (2, 3, 8) for r in (False, True)},
}

if __name__ == "__main__":
    jax.config.update("jax_disable_most_optimizations", True)
    print(json.dumps({name: bool(function(*arguments)) for name, (function, *arguments) in CASES.items()}))
