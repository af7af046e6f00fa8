"""A mixture of experts on eight devices beside one device, and what its exchange moves."""

from __future__ import annotations

import functools
import json
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from model.config import AttentionConfig, DenseConfig, ModelConfig, MoEConfig
from model.dense_moe import DenseMoE
from model.init import Buffer, Init
from model.moe import MoE
from sharding.experts import Exchange, through_groups
from sharding.mesh import MeshConfig, make_mesh, sequence_sharding
from sharding.rules import spec_for

D, F, E, K = 16, 8, 8, 2
B, T = 8, 32
MESHES = {
    "expert": {"expert": 8},
    "expert, data and context": {"expert": 2, "data": 2, "context": 2},
    "expert, fsdp and tensor": {"expert": 2, "fsdp": 2, "tensor": 2},
    "tensor": {"tensor": 4, "expert": 2},
    "no expert axis": {"data": 2, "fsdp": 2, "context": 2},
}
# Added to the scores, so that they decide alone who is chosen where they are not 0.
BIASES = {
    "mixed": np.zeros(E),
    "all to the same two": np.array([9, 8, *[0] * (E - 2)]),
    "all to the last": np.array([*[0] * (E - 1), 9]),
    "none to the first half": np.array([-9] * (E // 2) + [0] * (E // 2)),
}


def mixture(**options: Any) -> MoE:
    config = MoEConfig(num_experts=E, hidden_dim=F, **{"top_k": K, "shared_dim": 12, "bias_rate": 0.1} | options)
    return MoE(Init(jax.random.key(0)), config, D)


def dense_mixture() -> DenseMoE:
    moe = MoEConfig(num_experts=E, hidden_dim=F, top_k=3, router="sigmoid", router_norm=True, expert_scale=True)
    attention = AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8)
    sections: Any = {"global_attention": attention, "dense": DenseConfig(hidden_dim=12), "moe": moe}
    config = ModelConfig(model_dim=D, num_layers=1, pattern=("global",), ffn=("dense_moe",), **sections)
    return DenseMoE(Init(jax.random.key(0)), config)


def value_of(graph: Any, params: Any, buffers: Any, x_BTD: jax.Array, real_BT: jax.Array) -> Any:
    """A loss that weighs every output its own way, and all that the layer returns."""
    y_BTD, stats = nnx.merge(graph, params, buffers)(x_BTD, real_BT)
    weight_BTD = jnp.sin(jnp.arange(y_BTD.size).reshape(y_BTD.shape)) * real_BT[..., None]
    return jnp.sum(weight_BTD * y_BTD**2) + stats.loss, (y_BTD, stats)


def compiled(layer: nnx.Module, sizes: dict[str, int] | None) -> Any:
    """`(bias, x_BTD, real_BT) -> ((loss, (y, stats)), gradients)`, and the program."""
    graph, params, buffers = nnx.split(layer, nnx.Param, Buffer)
    program = jax.jit(jax.value_and_grad(functools.partial(value_of, graph), argnums=(0, 2), has_aux=True))
    x_BTD, real_BT = inputs()
    if sizes is None:
        return functools.partial(with_bias, program, params, buffers), None
    options: Any = {"data": 1} | sizes
    mesh = make_mesh(MeshConfig(**options))
    params, buffers = on_mesh(params, mesh), on_mesh(buffers, mesh)
    x_BTD, real_BT = (jax.device_put(x, sequence_sharding(mesh)) for x in (x_BTD, real_BT))
    with jax.set_mesh(mesh):
        program = program.lower(params, buffers, x_BTD, real_BT).compile()

    def run(bias_E: np.ndarray, x_BTD: jax.Array, real_BT: jax.Array) -> Any:
        placed = (jax.device_put(x, sequence_sharding(mesh)) for x in (x_BTD, real_BT))
        return with_bias(program, params, buffers, bias_E, *placed)

    return run, program


def with_bias(program: Any, params: Any, buffers: Any, bias_E: np.ndarray, *rest: jax.Array) -> Any:
    biased = jax.tree.map(lambda x: jax.device_put(jnp.asarray(bias_E, x.dtype), x.sharding), buffers)
    return jax.device_get(program(params, biased, *rest))


def on_mesh(state: Any, mesh: Mesh) -> Any:
    def place(variable: nnx.Variable) -> nnx.Variable:
        value = variable.get_value()
        spec = spec_for(variable.get_metadata("axes"), mesh, value.shape)
        return variable.replace(jax.device_put(value, NamedSharding(mesh, spec)))

    return jax.tree.map(place, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def inputs() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(B, T, D)), jnp.float32), jnp.asarray(rng.random((B, T)) < 0.8)


def largest_difference(found: Any, expected: Any) -> float:
    """Of all arrays, each on the scale of its largest number."""
    of_one = lambda a, b: np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)  # noqa: E731
    return float(max(jax.tree.leaves(jax.tree.map(of_one, found, expected))))


def parity(layer: nnx.Module, meshes: dict[str, dict[str, int]]) -> dict[str, Any]:
    x_BTD, real_BT = inputs()
    alone, _ = compiled(layer, None)
    expected = {name: alone(bias_E, x_BTD, real_BT) for name, bias_E in BIASES.items()}
    found: dict[str, Any] = {}
    for mesh, sizes in meshes.items():
        run, program = compiled(layer, sizes)
        found[mesh] = {
            name: largest_difference(run(bias_E, x_BTD, real_BT), expected[name]) for name, bias_E in BIASES.items()
        }
        found[mesh]["gathered"] = re.findall(r"= (\S+?)\{\S* all-gather(?:-start)?\(", program.as_text())
    return found


def exchanged(sent_to: str) -> dict[str, Any]:
    """What leaves each of four devices, in every window, and what its experts do with it."""
    n, M = 4, 64
    rng = np.random.default_rng(1)
    group_Mk = rng.integers(0, E, (n * M, K)) if sent_to == "all" else np.full((n * M, K), E // 2)
    x_MD = rng.normal(size=(n * M, D)).astype(np.float32)
    w_EDD = rng.normal(size=(E, D, D)).astype(np.float32)
    mesh = Mesh(np.array(jax.devices()[:n]), ("e",))

    def local(w_eDD, x_MD, group_Mk):
        def apply(w_eDD, rows_CD, sizes_e):
            group_C = jnp.searchsorted(jnp.cumsum(sizes_e), jnp.arange(len(rows_CD)), side="right")
            inside_C = group_C < len(sizes_e)
            return jnp.where(inside_C[:, None], jnp.einsum("cd,cdf->cf", rows_CD, w_eDD[group_C % len(w_eDD)]), 0)

        y_MkD, _ = through_groups(apply, w_eDD, x_MD, group_Mk, E, "e")
        counts_sE = jax.lax.all_gather(jnp.bincount(group_Mk.reshape(-1), length=E), "e")
        exchange = Exchange.of(counts_sE, M * K, "e")
        sent_wn = jnp.stack([exchange._slices(w)[0].size.reshape(n, -1).sum(1) for w in range(exchange.most)])
        held_w = jnp.stack([exchange.group_sizes(w).sum() for w in range(exchange.most)])
        return y_MkD, exchange.needed[None], sent_wn[None], held_w[None], jnp.full(1, exchange.capacity)

    run = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("e"), out_specs=P("e"), check_vma=False))
    y_MkD, needed_s, sent_swn, held_sw, capacity_s = jax.device_get(run(w_EDD, x_MD, group_Mk))
    want_MkD = np.einsum("md,mkdf->mkf", x_MD, w_EDD[group_Mk])
    leaves_sn = (group_Mk.reshape(n, -1)[:, :, None] // (E // n) == np.arange(n)).sum(1)
    return {
        "difference": largest_difference(y_MkD, want_MkD),
        "windows": int(needed_s[0]),
        "sent as counted": bool((sent_swn.sum(1) == leaves_sn).all()),
        "fullest": int(held_sw.max()),
        "capacity": int(capacity_s[0]),
    }


def main(what: str) -> None:
    jax.config.update("jax_disable_most_optimizations", True)  # time goes into compiling
    if what == "layers":
        found = {
            **parity(mixture(), MESHES),
            "beside a dense one": parity(dense_mixture(), {"": {"expert": 2, "tensor": 2, "context": 2}})[""],
        }
    else:
        found = {to: exchanged(to) for to in ("all", "one")}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
