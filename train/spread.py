"""Where what an optimiser keeps lies: as its parameter does, and cut where that has copies (ZeRO, arXiv 1910.02054)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from sharding.mesh import ambient_mesh
from sharding.rules import spec_for, spread_spec

Dims = Mapping[str, tuple[int, ...]]  # by name of a parameter: the dims that its moments may be cut along


def moment_shardings(opt_state: Any, params: Any, dims: Dims) -> Any:
    """Placements of an optimiser's state, of arrays or shapes; counters are everywhere. The parameters have theirs."""
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    named = {_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}

    def place(path: Any, leaf: Any) -> NamedSharding:
        for start in range(len(path)):  # a moment's path ends with that of its parameter
            name = _name(path[start:])
            if name in named and named[name].shape == leaf.shape:
                spec = spread_spec(named[name].sharding.spec, mesh, leaf.shape, dims[name])
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, opt_state)


def scattered(grads: Any, axes: Mapping[str, tuple[str | None, ...]], dims: Dims) -> Any:
    """Gradients, each summed where its moments are kept; under a trace on a mesh, and as they are elsewhere."""
    mesh = ambient_mesh()
    if mesh is None:
        return grads

    def scatter(path: Any, grad: jax.Array) -> jax.Array:
        name = _name(path)
        spec = spread_spec(spec_for(axes[name], mesh, grad.shape, name), mesh, grad.shape, dims[name])
        return jax.lax.with_sharding_constraint(grad, spec)

    return jax.tree_util.tree_map_with_path(scatter, grads)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
