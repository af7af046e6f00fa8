"""Where what an optimiser keeps lies: as its parameter does, and cut where that has copies (ZeRO, arXiv 1910.02054)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from sharding.mesh import ambient_mesh
from sharding.rules import Axes, spec_for, spread_spec

Dims = Mapping[str, tuple[int, ...]]  # by name of a parameter: the dims that its moments may be cut along

SMALL = 2**14  # values: moments of a smaller parameter stay whole, as its messages cost more than its memory


def moment_shardings(opt_state: Any, params: Any, dims: Dims) -> Any:
    """Placements of an optimiser's state, of arrays or shapes; counters are everywhere. The parameters have theirs."""
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    named = {_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}

    def place(path: Any, leaf: Any) -> NamedSharding:
        for start in range(len(path)):  # a moment's path ends with that of its parameter
            name = _name(path[start:])
            if name in named and named[name].shape == leaf.shape:
                return NamedSharding(mesh, _spread(named[name].sharding.spec, mesh, leaf.shape, dims[name]))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, opt_state)


def scattered(grads: Any, axes: Mapping[str, Axes], dims: Dims) -> tuple[Any, jax.Array]:
    """Gradients, each summed where its moments are kept, and their global norm; on a mesh under a trace.

    The norm is one sum over devices. One for each gradient would follow one another, and keep the compiler from
    combining the sums of the gradients.
    """
    mesh = ambient_mesh()
    if mesh is None:
        return grads, optax.tree.norm(grads)

    def spec(path: Any, grad: jax.Array) -> PartitionSpec:
        name = _name(path)
        return _spread(spec_for(axes[name], mesh, grad.shape, name), mesh, grad.shape, dims[name])

    specs = jax.tree_util.tree_map_with_path(spec, grads)
    grads = jax.tree.map(jax.lax.with_sharding_constraint, grads, specs)

    def norm(grads: Any) -> jax.Array:
        shares = jax.tree.map(lambda g, s: jnp.sum(jnp.square(g)) / _copies(s, mesh), grads, specs)
        return jnp.sqrt(jax.lax.psum(sum(jax.tree.leaves(shares)), mesh.axis_names))

    return grads, jax.shard_map(norm, mesh=mesh, in_specs=(specs,), out_specs=PartitionSpec(), check_vma=False)(grads)


def _spread(
    spec: PartitionSpec, mesh: Mesh | AbstractMesh, shape: tuple[int, ...], dims: tuple[int, ...]
) -> PartitionSpec:
    return spec if math.prod(shape) < SMALL else spread_spec(spec, mesh, shape, dims)


def _copies(spec: PartitionSpec, mesh: AbstractMesh) -> int:
    """How many devices hold each value."""
    named = {axis for axes in spec for axis in ((axes,) if isinstance(axes, str) else axes or ())}
    return math.prod(size for axis, size in mesh.shape.items() if axis not in named)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
