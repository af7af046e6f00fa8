"""A mixture of experts compiled for devices that are not there: `python -m tests.model.sharded_moe_aot v5p:2x2x1`."""

from __future__ import annotations

import functools
import json
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, use_abstract_mesh

from model.config import MoEConfig
from model.init import Buffer, Init
from model.moe import MoE
from sharding.mesh import MeshConfig, make_mesh, sequence_sharding
from sharding.rules import spec_for
from sharding.topology import topology
from tests.model.sharded_moe_cases import value_of

B, T, D, F, E, K = 8, 512, 256, 128, 8, 2


def main(name: str) -> None:
    machine = topology(name)
    mesh = make_mesh(MeshConfig(data=1, expert=4), list(machine.devices))
    config = MoEConfig(num_experts=E, hidden_dim=F, top_k=K, shared_dim=4 * F)
    layer = nnx.eval_shape(lambda: MoE(Init(jax.random.key(0)), config, D))
    graph, params, buffers = nnx.split(layer, nnx.Param, Buffer)
    tokens = sequence_sharding(mesh)
    x_BTD = jax.ShapeDtypeStruct((B, T, D), jnp.bfloat16, sharding=tokens)
    real_BT = jax.ShapeDtypeStruct((B, T), jnp.bool_, sharding=tokens)
    ambient = AbstractMesh(
        mesh.axis_sizes, mesh.axis_names, axis_types=mesh.axis_types, abstract_device=machine.abstract_device
    )
    with use_abstract_mesh(ambient):
        program = jax.jit(jax.grad(functools.partial(value_of, graph), argnums=(0, 2), has_aux=True))
        lowered = program.lower(abstract(params, mesh), abstract(buffers, mesh), x_BTD, real_BT)
    text = lowered.compile(compiler_options=machine.compiler_options).as_text() or ""
    exchanges = re.findall(r"= (.*?) ragged-all-to-all(?:-start)?\(", text)
    gathered = re.findall(r"= (\S+?)\{\S* all-gather(?:-start)?\(", text)
    kernels = len(re.findall(r'custom_call_target="(?:tpu_custom_call|mosaic_gpu\S*)"', text))
    print(json.dumps({"exchanges": len(exchanges), "gathered": gathered, "kernels": kernels}))


def abstract(state: Any, mesh: Mesh) -> Any:
    def place(variable: nnx.Variable) -> nnx.Variable:
        value = variable.get_value()
        sharding = NamedSharding(mesh, spec_for(variable.get_metadata("axes"), mesh, value.shape))
        return variable.replace(jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding))

    return jax.tree.map(place, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


if __name__ == "__main__":
    main(*sys.argv[1:])
