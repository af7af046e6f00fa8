"""The device mesh: five logical axes over however many devices there are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

REST = -1  # the axis that takes the devices that the others leave over
AXES = ("data", "fsdp", "expert", "context", "tensor")  # outermost (slowest network) first
BATCH_AXES = ("data", "fsdp", "expert")  # every one of them holds different rows of the batch
TOKEN_AXES = (*BATCH_AXES, "context")  # devices along "tensor" hold the same tokens


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; at most one is -1 and takes the rest.

    data: copies of the parameters. fsdp: slices of parameters, gathered when used. expert: slices of the experts.
    context: slices of the sequence. tensor: slices of heads and hidden units.
    slices: how many slices of the machine an axis runs through, such as {"data": 2}. A slice is what a fast network
        joins: a TPU slice, a host's GPUs. {}: the outermost axes, as the axes are named here, run through them.
    """

    data: int = REST
    fsdp: int = 1
    expert: int = 1
    context: int = 1
    tensor: int = 1
    slices: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for axis in AXES:
            size = getattr(self, axis)
            if size != REST and size < 1:
                raise ValueError(f"{axis} is {size}; it must be a positive number of devices, or -1 for the rest")
        rest = [axis for axis in AXES if getattr(self, axis) == REST]
        if len(rest) > 1:
            raise ValueError(f"{rest[1]} is -1 and so is {rest[0]}; one axis at most can take the rest")
        for axis, count in self.slices.items():
            if axis not in AXES or count < 1:
                raise ValueError(
                    f"slices is {self.slices}; it gives axes among {', '.join(AXES)} a positive number of slices"
                )

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

    def slices_along(self, shape: tuple[int, ...], num_slices: int) -> tuple[int, ...]:
        """Through how many of the machine's slices each of `AXES` runs; every slice holds an equal part of the axis.

        Raises:
            ValueError: if the machine has other slices than `slices` asks for, or an axis does not fit them.
        """
        if not self.slices:
            along, left = [], num_slices  # which divides the product of all axes
            for size in shape:
                along.append(math.gcd(size, left))
                left //= along[-1]
            return tuple(along)
        along = [self.slices.get(axis, 1) for axis in AXES]
        if math.prod(along) != num_slices:
            raise ValueError(
                f"mesh.slices is {self.slices}, {math.prod(along)} in all, but the devices form {num_slices}; make "
                "the numbers multiply to that, or leave slices out"
            )
        for axis, size, count in zip(AXES, shape, along, strict=True):
            if size % count:
                raise ValueError(
                    f"mesh.{axis} is {size}, which {count} slices (mesh.slices) do not divide; set mesh.{axis} to a "
                    f"multiple of {count}, or let another axis run through the slices"
                )
        return tuple(along)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of `config` over `devices` (all by default), with axes that the compiler may propagate along.

    Neighbours on an axis are neighbours in the machine as far as that is possible, inner axes (tensor) first.

    Raises:
        ValueError: axes that the devices, or the slices that they form, do not fit.
    """
    devices = jax.devices() if devices is None else devices
    return Mesh(arranged(config, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arranged(config: MeshConfig, devices: Sequence[Any]) -> np.ndarray:
    """The devices as `make_mesh` has them, one dim for each of `AXES`."""
    shape = config.shape(len(devices))
    slices = slices_of(devices)
    if len(slices) == 1 and devices[0].platform == "cpu":  # which knows of no slices, so takes those of any config
        slices = [list(part) for part in np.array_split(np.asarray(devices), math.prod(config.slices.values()))]
    along = config.slices_along(shape, len(slices))
    within = tuple(size // count for size, count in zip(shape, along, strict=True))
    parts = [_in_slice(within, part) for part in slices]
    order = np.arange(len(slices)).reshape(along)
    return np.block(np.vectorize(lambda i: parts[i], otypes=[object])(order).tolist())


def slices_of(devices: Sequence[Any]) -> list[list[Any]]:
    """The devices in groups that a fast network joins: TPU slices, or the GPUs of a host."""
    # GPUs that are there tell by their slice which share a network; those of a topology only by their process.
    by_slice, by_process = (_grouped(devices, name) for name in ("slice_index", "process_index"))
    if len(by_slice) == 1 and devices[0].platform in ("gpu", "cuda") and len(by_process) < len(devices):
        return by_process
    return by_slice


def _grouped(devices: Sequence[Any], attribute: str) -> list[list[Any]]:
    groups: dict[int, list[Any]] = {}
    for device in devices:
        groups.setdefault(getattr(device, attribute, 0), []).append(device)
    return [groups[index] for index in sorted(groups)]


def _in_slice(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """The devices of one slice; axes along whole sides of a torus where they fit, else along parts of sides."""
    try:
        return mesh_utils.create_device_mesh(shape, devices)
    except NotImplementedError:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def ambient_mesh() -> AbstractMesh | None:
    """The mesh that `jax.set_mesh` made current, with more than one device, where one of its axes is still the
    compiler's; None elsewhere, also inside a `shard_map` over all axes. Layers ask it whether to exchange anything."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or set(mesh.manual_axes) == set(mesh.axis_names):
        return None
    return mesh


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Placement of any array whose first dim counts rows of the batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def sequence_sharding(mesh: Mesh) -> NamedSharding:
    """Placement of [B,T,...] arrays: rows as in `batch_sharding`, slots over the context axis."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, "context"))


def token_spec(mesh: Mesh | AbstractMesh, num_rows: int, num_slots: int) -> PartitionSpec:
    """The placement of `sequence_sharding` for arrays [B,T,...] of this size.

    Raises:
        ValueError: rows or slots that the mesh does not divide.
    """
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if num_rows % shards:
        raise ValueError(
            f"a batch of {num_rows} rows is not a multiple of mesh.data * mesh.fsdp * mesh.expert = {shards}; change "
            "the pipeline's batch_size (a microbatch has batch_size / accumulate rows) or these axes"
        )
    if num_slots % mesh.shape["context"]:
        raise ValueError(
            f"a row of {num_slots} slots is not a multiple of mesh.context = {mesh.shape['context']}; change the "
            "pipeline's sequence length or this axis"
        )
    return PartitionSpec(BATCH_AXES, "context")
