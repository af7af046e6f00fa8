from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from sharding.mesh import AXES, MeshConfig
from sharding.rules import RULES, param_shardings, spec_for

MESH = AbstractMesh(MeshConfig(data=1, fsdp=2, expert=2, tensor=2).shape(8), AXES)


@pytest.mark.parametrize(
    ("axes", "shape", "spec"),
    [
        (("vocab", "embed"), (16, 8), PartitionSpec("tensor", "fsdp")),
        (("layers", "embed", "kv_heads", "head_dim"), (3, 8, 2, 5), PartitionSpec(None, "fsdp", "tensor", None)),
        (("experts", "mlp", "embed"), (4, 8, 8), PartitionSpec("expert", "tensor", "fsdp")),
        ((None, "embed"), (7, 8), PartitionSpec(None, "fsdp")),
        ((), (), PartitionSpec()),
    ],
)
def test_logical_axes_go_where_the_table_says(axes, shape, spec):
    assert spec_for(axes, MESH, shape) == spec


def test_every_rule_names_a_mesh_axis_or_keeps_the_dim_whole():
    assert set(RULES.values()) <= {*AXES, None}


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        (("embed", "hedas"), (8, 8), r"stack/w: no rule places the logical axis 'hedas'.*sharding/rules.py"),
        (("embed", "embed"), (8, 8), r"stack/w: 'embed' and 'embed' both go to the mesh axis 'fsdp'"),
        (("heads", "embed"), (3, 8), r"stack/w: 'heads' is 3 long, which mesh.tensor = 2 does not divide"),
        (("embed",), (8, 8), r"stack/w has shape \(8, 8\) but logical axes \('embed',\)"),
    ],
)
def test_a_parameter_that_cannot_be_placed_is_refused_by_name(axes, shape, message):
    with pytest.raises(ValueError, match=message):
        spec_for(axes, MESH, shape, "stack/w")


def test_a_parameter_without_logical_axes_is_refused_by_path():
    params = {"stack": [{"w": np.zeros((8, 8))}]}
    assert param_shardings(params, {"stack/0/w": ("embed", "mlp")}, jax.make_mesh((1,) * 5, AXES))
    with pytest.raises(ValueError, match="stack/0/w: no logical axes are known"):
        param_shardings(params, {"stack/w": ("embed", "mlp")}, jax.make_mesh((1,) * 5, AXES))


EIGHT_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
from sharding.mesh import MeshConfig, batch_sharding, make_mesh, sequence_sharding
from sharding.rules import shard_params

key = jax.random.split(jax.random.key(0), 4)
params = {"up": jax.random.normal(key[0], (4, 8, 16)), "down": jax.random.normal(key[1], (4, 16, 8)),
          "out": jax.random.normal(key[2], (8, 32))}
axes = {"up": ("experts", "embed", "mlp"), "down": ("experts", "mlp", "embed"), "out": ("embed", "vocab")}
x_BTD = jax.random.normal(key[3], (8, 4, 8))

def loss(params, x_BTD):
    hidden = jnp.tanh(jnp.einsum("btd,edf->ebtf", x_BTD, params["up"]))
    y_BTD = x_BTD + jnp.einsum("ebtf,efd->btd", hidden, params["down"])
    return jnp.mean(jax.nn.logsumexp(y_BTD @ params["out"], axis=-1) ** 2)

step = jax.jit(jax.value_and_grad(loss))
want = jax.device_get(step(params, x_BTD))
for sizes in (dict(fsdp=2, tensor=2, expert=2, data=1), dict(data=2, context=2, tensor=2)):
    mesh = make_mesh(MeshConfig(**sizes))
    placed = shard_params(params, axes, mesh)
    assert len(placed["up"].sharding.device_set) == 8
    assert placed["up"].sharding.shard_shape((4, 8, 16)) == (
        4 // sizes.get("expert", 1), 8 // sizes.get("fsdp", 1), 16 // sizes.get("tensor", 1))
    x = jax.device_put(x_BTD, sequence_sharding(mesh))
    assert x.sharding.shard_shape(x.shape)[1] == 4 // sizes.get("context", 1)
    assert batch_sharding(mesh).shard_shape((8,)) == x.sharding.shard_shape(x.shape)[:1]
    got = jax.device_get(step(placed, x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), got, want)
print("equal on", jax.device_count(), "devices")
"""


def test_a_step_sharded_over_eight_devices_gives_the_result_of_one_device():
    root = pathlib.Path(__file__).parents[2]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", EIGHT_DEVICES], cwd=root, env=environment, capture_output=True, text=True
    )
    assert run.stdout.strip() == "equal on 8 devices", run.stderr
