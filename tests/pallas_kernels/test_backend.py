import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import backend
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.interval_attention import interval_attention
from tests.pallas_kernels import intervals


@pytest.fixture(autouse=True)
def _say_it_again():
    backend._say_once.cache_clear()


def attend(h=64, dtype="bfloat16", T=128, **options):
    q, k, v, *_ = intervals.arrays(1, T, T, 2, 1, h, dtype)
    return interval_attention(q, k, v, *intervals.batch("causal", 1, T), scale=h**-0.5, **options)


def traced_for(kind: str, platform: str, axes: tuple[int, ...] = ()):
    """What compiling ahead of time for such a device sees."""
    device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=1, platform=platform)
    names = tuple(f"axis{i}" for i in range(len(axes)))
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh(axes, names, abstract_device=device))


def test_a_cpu_computes_the_reference():
    assert backend.select("grouped_matmul", "auto") == "reference"


def test_an_unknown_backend_is_refused_with_the_names_that_exist():
    with pytest.raises(ValueError, match=r"backend: got 'cuda'; allowed are auto, reference, gpu, tpu"):
        attend(backend="cuda")


@pytest.mark.parametrize("name", ["gpu", "tpu"])
def test_a_forced_kernel_is_refused_on_another_platform(name):
    with pytest.raises(ValueError, match=rf"got '{name}' for interval_attention, but the program is traced for cpu"):
        attend(backend=name)


@pytest.mark.parametrize(
    ("kind", "platform", "expected"),
    [("NVIDIA H200", "cuda", "gpu"), ("NVIDIA H100 80GB HBM3", "gpu", "gpu"), ("TPU v5p", "tpu", "tpu")],
)
def test_the_kernel_of_the_platform_is_taken_and_logged_once(kind, platform, expected, caplog):
    x, w = jnp.zeros((256, 128), "bfloat16"), jnp.zeros((4, 128, 128), "bfloat16")
    with caplog.at_level(logging.INFO, "pallas_kernels"), traced_for(kind, platform):
        assert [backend.select("grouped_matmul", "auto", x, w) for _ in range(3)] == [expected] * 3
    assert caplog.messages == [f"grouped_matmul: {expected} kernel"]


def test_another_gpu_falls_back_with_one_warning_that_says_why(caplog):
    x, w = jnp.zeros((256, 128), "bfloat16"), jnp.zeros((4, 128, 128), "bfloat16")
    with caplog.at_level(logging.WARNING, "pallas_kernels"), traced_for("NVIDIA B200", "cuda"):
        assert [backend.select("grouped_matmul", "auto", x, w) for _ in range(3)] == ["reference"] * 3
        with pytest.raises(ValueError, match="Hopper"):
            backend.select("grouped_matmul", "gpu", x, w)
    (message,) = caplog.messages
    assert message.startswith("grouped_matmul: reference instead of the gpu kernel, since")
    assert "B200" in message


def test_a_shape_without_kernel_falls_back_or_is_refused_where_it_was_forced(caplog):
    with backend.emulate("gpu"), caplog.at_level(logging.WARNING, "pallas_kernels"):
        out, _ = attend(h=24)
        with pytest.raises(ValueError, match=r"got 'gpu' for interval_attention, but .*24"):
            attend(h=24, backend="gpu")
    np.testing.assert_array_equal(out, attend(h=24)[0])
    assert len(caplog.messages) == 1
    assert "24" in caplog.messages[0]


def test_over_several_devices_a_kernel_needs_shard_map():
    x, w = jnp.zeros((256, 128), "bfloat16"), jnp.zeros((4, 128, 128), "bfloat16")
    with traced_for("TPU v5p", "tpu", axes=(2, 2)):
        assert backend.select("grouped_matmul", "auto", x, w) == "reference"
        with pytest.raises(ValueError, match=r"4 devices.*shard_map"):
            backend.select("grouped_matmul", "tpu", x, w)


def test_inside_shard_map_each_device_runs_its_own_kernel():
    device = jax.sharding.AbstractDevice(device_kind="TPU v5p", num_cores=1, platform="tpu")
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((2,), ("data",), axis_types=auto, abstract_device=device)
    chosen = []

    def local(x_MD, w_EDF):
        chosen.append(backend.select("grouped_matmul", "auto", x_MD, w_EDF))
        return x_MD

    rows, everywhere = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    x, w = (jax.ShapeDtypeStruct(shape, "bfloat16") for shape in ((256, 128), (4, 128, 128)))
    with jax.sharding.use_abstract_mesh(mesh):
        jax.eval_shape(jax.shard_map(local, in_specs=(rows, everywhere), out_specs=rows), x, w)
    assert chosen == ["tpu"]


@pytest.mark.parametrize("name", ["gpu", "tpu"])
def test_emulated_kernels_differ_from_the_reference_only_by_rounding(name):
    _, expected = attend(T=256)
    with backend.emulate(name):
        _, actual = attend(T=256, backend=name)
    assert 0 < intervals.relative_error(actual, expected) < 1e-5


def test_only_kernels_are_emulated():
    with pytest.raises(ValueError, match="allowed are 'gpu' and 'tpu'"), backend.emulate("reference"):
        pass


def test_gradients_take_the_same_backend_as_values():
    x, w = jnp.ones((8, 4)), jnp.ones((2, 4, 4))
    grad = jax.grad(lambda x: grouped_matmul(x, w, jnp.array([3, 5], "int32"), backend="reference").sum())(x)
    np.testing.assert_array_equal(grad, np.full((8, 4), 4.0))
