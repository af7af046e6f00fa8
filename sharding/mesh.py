"""The device mesh: five logical axes over however many devices there are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

REST = -1  # the axis that takes the devices that the others leave over
AXES = ("data", "fsdp", "expert", "context", "tensor")  # outermost (slowest network) first
BATCH_AXES = ("data", "fsdp", "expert")  # every one of them holds different rows of the batch


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; at most one is -1 and takes the rest.

    data: copies of the parameters. fsdp: slices of parameters, gathered when used. expert: slices of the experts.
    context: slices of the sequence. tensor: slices of heads and hidden units.
    """

    data: int = REST
    fsdp: int = 1
    expert: int = 1
    context: int = 1
    tensor: int = 1

    def __post_init__(self):
        for axis in AXES:
            size = getattr(self, axis)
            if size != REST and size < 1:
                raise ValueError(f"{axis} is {size}; it must be a positive number of devices, or -1 for the rest")
        rest = [axis for axis in AXES if getattr(self, axis) == REST]
        if len(rest) > 1:
            raise ValueError(f"{rest[1]} is -1 and so is {rest[0]}; one axis at most can take the rest")

    def shape(self, num_devices: int) -> tuple[int, ...]:
        """Devices along each of `AXES`.

        Raises:
            ValueError: if the axes do not multiply to `num_devices`.
        """
        sizes = {axis: getattr(self, axis) for axis in AXES}
        fixed = math.prod(size for size in sizes.values() if size != REST)
        given = " x ".join(f"{axis}={size}" for axis, size in sizes.items() if size not in (1, REST)) or "1"
        if REST in sizes.values():
            if num_devices % fixed:
                raise ValueError(
                    f"mesh: {given} needs a multiple of {fixed} devices but there are {num_devices}; "
                    f"choose axis sizes whose product divides {num_devices}"
                )
            return tuple(num_devices // fixed if size == REST else size for size in sizes.values())
        if fixed != num_devices:
            raise ValueError(
                f"mesh: {given} needs {fixed} devices but there are {num_devices}; set one axis to -1 to take the rest"
            )
        return tuple(sizes.values())


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of `config` over `devices` (all by default), with axes that the compiler may propagate along."""
    devices = jax.devices() if devices is None else devices
    shape = config.shape(len(devices))
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Placement of any array whose first dim counts rows of the batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def sequence_sharding(mesh: Mesh) -> NamedSharding:
    """Placement of [B,T,...] arrays: rows as in `batch_sharding`, slots over the context axis."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, "context"))
