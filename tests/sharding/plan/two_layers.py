"""Compiles small steps for eight virtual devices and prints what the planner reads from them, as JSON.

`python -m tests.sharding.plan.two_layers`: a program of collectives written out by hand, and the real train step of two
layers on two meshes.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from sharding.mesh import MeshConfig, make_mesh
from sharding.plan.collectives import collectives
from sharding.plan.hlo import parse
from sharding.plan.loops import runs
from sharding.plan.work import work
from train.ahead import abstract_step
from train.spread import SMALL

WIDTH, HIDDEN, HEADS, KV_HEADS, HEAD, PIECES = 64, 256, 4, 2, 16, 512
ROWS, SLOTS, LAYERS = 8, 64, 2


def config(**mesh: int) -> ConfigDict:
    attention = {"num_heads": HEADS, "num_kv_heads": KV_HEADS, "head_dim": HEAD, "qk_norm": False}
    model = {
        "model_dim": WIDTH,
        "num_layers": LAYERS,
        "pattern": ("global",),
        "ffn": ("dense",),
        "global_attention": attention,
        "dense": {"hidden_dim": HIDDEN},
    }
    phase = {"objective": "next_token", "model": "small", "mixture": {"text": 1.0}, "steps": 10}
    phase |= {"pipeline": {"batch_size": ROWS, "slots": SLOTS}}
    return ConfigDict(
        {
            "seed": 0,
            "mesh": mesh,
            "vocabulary": {"path": "none.model", "paths": ("none.txt",), "size": PIECES},
            "sources": {"text": {"kind": "text", "paths": ("none.txt",)}},
            "models": {"small": model},
            "phases": {"teach": phase},
            "train": {"phases": ("teach",)},
        }
    )


def by_hand(mesh: Any) -> Any:
    """Three layers that gather a weight over fsdp and sum over data, then two steps of a ring over context."""

    def shard(w_LDD, x_BD):
        def layer(x_BD, w_DD):
            x_BD = x_BD @ jax.lax.all_gather(w_DD, "fsdp", tiled=True)
            return jax.lax.psum(x_BD, "data"), None

        x_BD, _ = jax.lax.scan(layer, x_BD, w_LDD)
        pairs = [(i, (i + 1) % 2) for i in range(2)]
        return jax.lax.fori_loop(0, 2, lambda _, x: jnp.sin(jax.lax.ppermute(x, "context", pairs)), x_BD)

    shapes = jax.ShapeDtypeStruct((3, 64, 64), jnp.float32), jax.ShapeDtypeStruct((16, 64), jnp.float32)
    specs = P(None, "fsdp"), P("context")
    run = jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=P("context"), check_vma=False)
    return jax.jit(run).lower(*shapes).compile().as_text()


def found(text: str, mesh: Any) -> dict:
    program = parse(text)
    times = runs(program)
    done = work(program, times)
    sent = [dataclasses.asdict(c) for c in collectives(program, times, dict(mesh.shape))]
    return {"collectives": sent, "flops": done.matmul_flops, "traffic": done.traffic_bytes, "unknown": times.unknown}


def main() -> None:
    jax.config.update("jax_disable_most_optimizations", True)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, context=2))
    results = {"by_hand": found(by_hand(mesh), mesh)}
    for axis in ("data", "fsdp"):
        step = abstract_step(config(**{"data": 1, axis: 8}), "teach", jax.devices())
        compiled = step.lower().compile()
        stats = compiled.memory_analysis()
        results[axis] = found(compiled.as_text(), step.mesh) | {
            "arguments": stats.argument_size_in_bytes,
            "told": step.argument_bytes,
            "parameters": step.num_parameters,
            "spread": sum(x.size for x in jax.tree.leaves(step.state.params) if x.size >= SMALL),
            "hardware_flops": step.hardware_flops,
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
