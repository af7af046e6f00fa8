from __future__ import annotations

import jax
import pytest
from jax.sharding import AxisType

from sharding.mesh import AXES, MeshConfig, batch_sharding, make_mesh, sequence_sharding


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
