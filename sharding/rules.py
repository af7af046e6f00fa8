"""Where parameters live: one table from the logical axes written beside each parameter's shape to mesh axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Axes = tuple[str | None, ...]  # logical axes of a parameter, one for each dim; None = a dim with no name, kept whole

RULES: dict[str, str | None] = {
    "embed": "fsdp",  # model width D, wherever a weight meets the residual stream
    "embed_out": "tensor",  # the second D of a square weight
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
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
    "state": None,
    "stem": None,
    "stem_mlp": None,
    "vector": None,
    "vision_in": None,  # where "vision" meets "embed", which is placed already
}


def spec_for(axes: Axes, mesh: Mesh, shape: tuple[int, ...], name: str = "parameter") -> PartitionSpec:
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
