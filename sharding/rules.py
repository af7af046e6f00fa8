"""Where parameters live: one table from the logical axes written beside each parameter's shape to mesh axes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from sharding.mesh import TOKEN_AXES

Axes = tuple[str | None, ...]  # logical axes of a parameter, one for each dim; None = a dim with no name, kept whole

RULES: dict[str, str | None] = {
    "embed": "fsdp",  # model width D, wherever a weight meets the residual stream
    "embed_out": "tensor",  # the second D of a square weight
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "state": "tensor",
    "experts": "expert",
    "vision": "fsdp",  # width of an image encoder
    "vocab": "tensor",
    # Kept whole: too small to pay for a collective, or scanned over.
    "bins": None,
    "cells": None,
    "chunk": None,
    "embodiment": None,
    "head_dim": None,
    "layers": None,
    "lora": None,
    "patch": None,
    "patch_column": None,
    "patch_row": None,
    "pixels": None,
    "stem": None,
    "stem_mlp": None,
    "vector": None,
    "vision_in": None,  # where "vision" meets "embed", which is placed already
}


def spec_for(axes: Axes, mesh: Mesh | AbstractMesh, shape: tuple[int, ...], name: str = "parameter") -> PartitionSpec:
    """The placement of one parameter.

    Raises:
        ValueError: a logical axis without a rule, two dims on one mesh axis, a dim that its mesh axis does not divide,
            or another number of axes than dims. Nothing falls back to a silent copy on every device.
    """
    if len(axes) != len(shape):
        raise ValueError(f"{name} has shape {shape} but logical axes {axes}; give one for each dim")
    unknown = [axis for axis in axes if axis is not None and axis not in RULES]
    if unknown:
        raise ValueError(
            f"{name}: no rule places the logical axis {unknown[0]!r} of {axes}; add it to RULES in sharding/rules.py "
            f"or use one of {', '.join(RULES)}"
        )
    placed = [None if axis is None else RULES[axis] for axis in axes]
    for dim, mesh_axis in enumerate(placed):
        if mesh_axis is None:
            continue
        if mesh_axis in placed[:dim]:
            first = axes[placed.index(mesh_axis)]
            raise ValueError(
                f"{name}: {first!r} and {axes[dim]!r} both go to the mesh axis {mesh_axis!r}; "
                f"rename one of the logical axes {axes} to one that is placed elsewhere"
            )
        size = mesh.shape[mesh_axis]
        if shape[dim] % size:
            raise ValueError(
                f"{name}: {axes[dim]!r} is {shape[dim]} long, which mesh.{mesh_axis} = {size} does not divide; "
                f"set mesh.{mesh_axis} to a divisor of {shape[dim]} or change the size"
            )
    return PartitionSpec(*placed)


def kept_whole(params: Mapping[str, Any], axes: Mapping[str, Axes]) -> dict[str, int]:
    """Bytes of the parameters, by name, that every device of any mesh holds whole; largest first.

    params: arrays or shapes by name; axes: their logical axes.
    """
    whole = {name: x.size * x.dtype.itemsize for name, x in params.items() if not any(map(_mesh_axis, axes[name]))}
    return dict(sorted(whole.items(), key=lambda item: -item[1]))


def _mesh_axis(axis: str | None) -> str | None:
    return None if axis is None else RULES[axis]


def spread_spec(
    spec: PartitionSpec, mesh: Mesh | AbstractMesh, shape: tuple[int, ...], dims: Collection[int] | None = None
) -> PartitionSpec:
    """`spec` for what is kept once of a parameter, such as its moments: also cut where there would be copies.

    That is along every axis of `TOKEN_AXES`, over whose devices gradients are summed, that does not cut the parameter
    itself: each along the longest of `dims` (of all, if not given) that it divides (ZeRO, arXiv 1910.02054, section 5).
    """
    placed = [() if axes is None else (axes,) if isinstance(axes, str) else tuple(axes) for axes in spec]
    placed += [()] * (len(shape) - len(placed))
    used = {axis for axes in placed for axis in axes}
    for axis in TOKEN_AXES:
        if axis in used or mesh.shape[axis] == 1:
            continue
        local = {d: shape[d] // math.prod(mesh.shape[a] for a in placed[d]) for d in range(len(shape))}
        fitting = [d for d in local if (dims is None or d in dims) and local[d] and local[d] % mesh.shape[axis] == 0]
        if fitting:
            placed[max(fitting, key=local.__getitem__)] += (axis,)
    return PartitionSpec(*(None if not axes else axes[0] if len(axes) == 1 else axes for axes in placed))


def param_shardings(params: Any, axes: Mapping[str, Axes], mesh: Mesh) -> Any:
    """Placements for a pytree of arrays or shapes; `axes` gives each leaf's logical axes by its path, joined by "/".

    Raises:
        ValueError: a leaf that `axes` does not name, or what `spec_for` refuses.
    """

    def sharding(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name not in axes:
            raise ValueError(f"{name}: no logical axes are known; declare them beside the parameter's shape")
        return NamedSharding(mesh, spec_for(axes[name], mesh, leaf.shape, name))

    return jax.tree_util.tree_map_with_path(sharding, params)


def shard_params(params: Any, axes: Mapping[str, Axes], mesh: Mesh) -> Any:
    """`params` moved to where `param_shardings` puts them."""
    return jax.device_put(params, param_shardings(params, axes, mesh))


def gathered(x: jax.Array, spec: PartitionSpec, keep: tuple[str, ...] = ()) -> jax.Array:
    """Inside a `shard_map`: the whole of an array placed by `spec`, still sliced along the mesh axes of `keep`.

    Its gradient is a sum over the devices that gathered, of which each gets its slice.
    """
    for dim, axis in enumerate(spec):
        if axis is not None and axis not in keep and jax.lax.axis_size(axis) > 1:
            x = jax.lax.all_gather(x, axis, axis=dim, tiled=True)
    return x
