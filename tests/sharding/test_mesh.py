from __future__ import annotations

import dataclasses
import importlib.util

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from sharding.mesh import AXES, MeshConfig, arranged, batch_sharding, make_mesh, sequence_sharding, slices_of
from sharding.topology import topology


@pytest.mark.parametrize(
    ("config", "num_devices", "shape"),
    [
        (MeshConfig(), 8, (8, 1, 1, 1, 1)),
        (MeshConfig(data=2, fsdp=-1, tensor=2), 8, (2, 2, 1, 1, 2)),
        (MeshConfig(data=1, expert=4, context=2), 8, (1, 1, 4, 2, 1)),
        (MeshConfig(data=-1, fsdp=8), 8, (1, 8, 1, 1, 1)),
    ],
)
def test_one_axis_takes_the_devices_that_the_others_leave(config, num_devices, shape):
    assert config.shape(num_devices) == shape


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(fsdp=3), r"fsdp=3 needs a multiple of 3 devices but there are 8"),
        (MeshConfig(data=2, tensor=2), r"data=2 x tensor=2 needs 4 devices but there are 8; set one axis to -1"),
        (MeshConfig(data=1, fsdp=16), r"needs 16 devices but there are 8"),
    ],
)
def test_sizes_that_do_not_fit_the_devices_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        config.shape(8)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="fsdp is 0; it must be a positive number of devices"):
        MeshConfig(fsdp=0)
    with pytest.raises(ValueError, match="fsdp is -1 and so is data"):
        MeshConfig(fsdp=-1)


def test_a_mesh_of_one_device_has_all_axes_and_leaves_placement_to_the_compiler():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert mesh.axis_names == AXES
    assert dict(mesh.shape) == dict.fromkeys(AXES, 1)
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert batch_sharding(mesh).shard_shape((4, 6)) == sequence_sharding(mesh).shard_shape((4, 6)) == (4, 6)


@dataclasses.dataclass(frozen=True)
class Device:
    """A device as far as its place in the machine goes."""

    id: int
    slice_index: int = 0
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "cpu"


def in_slices(count: int, each: int) -> list[Device]:
    """Devices of several slices, told in turn, as nobody promises them in order."""
    return [Device(id=slice_ * each + i, slice_index=slice_) for i in range(each) for slice_ in range(count)]


def slices_crossed(mesh: np.ndarray, axis: str) -> int:
    """Slices that a line of neighbours along the axis runs through; the same for all lines."""
    lines = np.moveaxis(mesh, AXES.index(axis), -1).reshape(-1, mesh.shape[AXES.index(axis)])
    (count,) = {len({getattr(device, "slice_index", 0) for device in line}) for line in lines}
    return count


@pytest.mark.parametrize(
    ("config", "crossing"),
    [
        (MeshConfig(data=2, fsdp=2, tensor=2), {"data": 2}),
        (MeshConfig(data=4, tensor=2), {"data": 2}),
        (MeshConfig(data=1, fsdp=4, tensor=2), {"fsdp": 2}),
        (MeshConfig(data=2, fsdp=4, slices={"fsdp": 2}), {"fsdp": 2}),
        (MeshConfig(data=1, context=8), {"context": 2}),
    ],
)
def test_the_slow_network_carries_the_outermost_axes_or_those_that_are_named(config, crossing):
    mesh = arranged(config, in_slices(2, 4))
    assert {axis: n for axis in AXES if (n := slices_crossed(mesh, axis)) > 1} == crossing
    assert sorted(device.id for device in mesh.flat) == list(range(8))


def test_several_axes_share_more_slices_than_one_of_them_has():
    mesh = arranged(MeshConfig(data=2, fsdp=4, tensor=2), in_slices(4, 4))
    assert [slices_crossed(mesh, axis) for axis in AXES] == [2, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("config", "slices", "each", "message"),
    [
        (
            MeshConfig(slices={"data": 4}),
            2,
            4,
            "mesh.slices is {'data': 4}, 4 in all, but the devices form 2; make the",
        ),
        (
            MeshConfig(data=2, fsdp=-1, slices={"data": 4}),
            4,
            2,
            "mesh.data is 2, which 4 slices .mesh.slices. do not divide; set mesh.data",
        ),
    ],
)
def test_axes_that_cannot_be_laid_over_the_slices_are_refused(config, slices, each, message):
    with pytest.raises(ValueError, match=message):
        arranged(config, in_slices(slices, each))


@pytest.mark.parametrize("slices", [{"rows": 2}, {"data": 0}])
def test_slices_of_no_axis_are_refused(slices):
    with pytest.raises(ValueError, match=r"slices is .*; it gives axes among data, fsdp, expert, context, tensor"):
        MeshConfig(slices=slices)


def test_devices_that_know_of_no_slices_take_those_of_the_config():
    alone = [Device(id=i) for i in range(8)]
    mesh = arranged(MeshConfig(data=2, fsdp=4, slices={"fsdp": 2}), alone)
    assert [[device.id for device in row.flat] for row in mesh] == [[0, 1, 4, 5], [2, 3, 6, 7]]


@pytest.mark.parametrize(("per_process", "found"), [(4, 2), (8, 1), (1, 1)])
def test_gpus_of_a_host_are_a_slice_where_nothing_else_tells(per_process, found):
    """A process for each GPU tells nothing about hosts."""
    gpus = [Device(id=i, process_index=i // per_process, platform="gpu") for i in range(8)]
    assert len(slices_of(gpus)) == found


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu")
@pytest.mark.parametrize(
    ("name", "config", "crossing"),
    [
        ("v5p:2x2x1@2", MeshConfig(data=2, fsdp=-1), ["data"]),
        ("v5p:2x2x1@2", MeshConfig(data=1, fsdp=8), ["fsdp"]),
        ("v5p:4x4x4", MeshConfig(data=2, fsdp=16, tensor=2), []),  # sides of four, axes of two
    ],
)
def test_tpu_slices_are_joined_along_the_outermost_axis(name, config, crossing):
    mesh = make_mesh(config, topology(name).devices)
    assert [axis for axis in AXES if slices_crossed(mesh.devices, axis) > 1] == crossing


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra cuda")
def test_gpu_hosts_are_joined_along_the_outermost_axis():
    mesh = make_mesh(MeshConfig(data=4, tensor=8), topology("h200:4x8").devices)
    assert all(len({device.process_index for device in host.flat}) == 1 for host in mesh.devices)
