"""Parameters taken over from another phase, with an exact account of what was copied and what starts fresh."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from train.optimizer import name_of


@dataclasses.dataclass(frozen=True)
class CopyReport:
    """Names of parameters: `copied` as (from, to), `fresh` with the reason, `unused` ones of the source."""

    copied: tuple[tuple[str, str], ...]
    fresh: tuple[tuple[str, str], ...]
    unused: tuple[str, ...]

    def summary(self) -> str:
        fresh = "".join(f"\n  fresh: {name} ({why})" for name, why in self.fresh)
        return f"{len(self.copied)} parameters copied, {len(self.fresh)} fresh, {len(self.unused)} unused{fresh}"


def copy_parameters(
    source: Any, target: Any, rules: tuple[tuple[str, str], ...] = (), may_grow: Collection[str] = ()
) -> tuple[Any, CopyReport]:
    """`target` with every parameter replaced whose counterpart in `source` has the same shape.

    rules: (path in source, path in target) of subtrees; the first that contains a parameter says where its counterpart
        is, and what no rule contains stays fresh. No rules: the same path. A path of "" is the whole tree.
    may_grow: names in `target` of tables whose counterpart may have fewer rows; the rows after those stay fresh.
    Copies take the dtype and the sharding of the target. Raises ValueError for a rule that copies nothing.
    """
    given = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(source)}
    copied: list[tuple[str, str]] = []
    fresh: list[tuple[str, str]] = []
    idle = set(rules)

    def replace(path: Any, leaf: jax.Array) -> jax.Array:
        name = name_of(path)
        rule = next((rule for rule in rules or (("", ""),) if _below(name, rule[1]) is not None), None)
        if rule is None:
            fresh.append((name, "no copy rule"))
            return leaf
        origin = "/".join(part for part in (rule[0], _below(name, rule[1])) if part)
        rows = _leading_rows(given.get(origin), leaf) if name in may_grow else None
        if rows is not None:
            copied.append((origin, name))
            fresh.append((f"{name}[{rows}:]", "no such rows there"))
            idle.discard(rule)
            return _with_rows(leaf, given[origin])
        if origin not in given or given[origin].shape != leaf.shape:
            why = f"shape {given[origin].shape} there, {leaf.shape} here" if origin in given else f"no {origin} there"
            fresh.append((name, why))
            return leaf
        copied.append((origin, name))
        idle.discard(rule)
        return _placed_like(given[origin], leaf)

    result = jax.tree_util.tree_map_with_path(replace, target)
    report = CopyReport(tuple(copied), tuple(fresh), tuple(sorted(set(given) - {origin for origin, _ in copied})))
    if not copied or idle:
        raise ValueError(
            f"copy {sorted(idle) if idle else 'of equal paths'} takes no parameter over; correct the paths.\n"
            f"{report.summary()}\n  there are: {', '.join(given)}"
        )
    return result, report


def _below(name: str, prefix: str) -> str | None:
    """The rest of `name` under the subtree `prefix`, or None if it is not in it."""
    if not prefix or name == prefix:
        return name if not prefix else ""
    return name[len(prefix) + 1 :] if name.startswith(prefix + "/") else None


def _leading_rows(value: Any, like: jax.Array) -> int | None:
    """The number of rows of `value` if that alone is smaller than in `like`."""
    if value is None or value.shape[1:] != like.shape[1:] or value.shape[0] >= like.shape[0]:
        return None
    return value.shape[0]


def _with_rows(leaf: jax.Array, rows: np.ndarray) -> jax.Array:
    """`leaf` with its first rows replaced, wherever they lie."""
    sharding = leaf.sharding if isinstance(leaf.sharding, NamedSharding) else None
    replace = jax.jit(lambda leaf, rows: leaf.at[: rows.shape[0]].set(rows), out_shardings=sharding)
    return replace(leaf, np.asarray(rows, leaf.dtype))


def _placed_like(value: np.ndarray, like: jax.Array) -> jax.Array:
    value = np.asarray(value, like.dtype)
    return jax.device_put(value, like.sharding) if isinstance(like.sharding, NamedSharding) else jnp.asarray(value)
