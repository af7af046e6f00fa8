"""Steps on eight devices beside one device, and the bytes that each holds."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharding.mesh import MeshConfig, batch_sharding, make_mesh
from sharding.rules import shard_params
from tests.train import tiny
from train import spread
from train.optimizer import OptimizerConfig, build_optimizer
from train.step import TrainState, jit_step, step_mesh, train_step

LAYERS, WIDTH, STEPS = 8, 16, 3
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "adamw, data": ({"data": 8}, "adamw"),
    "adamw, fsdp": ({"data": 1, "fsdp": 8}, "adamw"),
    "adamw, data x fsdp x tensor": ({"data": 2, "fsdp": 2, "tensor": 2}, "adamw"),
    "adamw, expert x context": ({"data": 1, "expert": 4, "context": 2}, "adamw"),
    "muon, data": ({"data": 8}, "muon"),
    "muon, data x fsdp x tensor": ({"data": 2, "fsdp": 2, "tensor": 2}, "muon"),
}


def weights() -> dict[str, Any]:
    shapes = {
        "embed": {"table": (tiny.VOCAB, WIDTH)},
        "layers": {"up": (LAYERS, WIDTH, WIDTH), "scale": (LAYERS, WIDTH)},
        "out": {"kernel": (WIDTH, tiny.VOCAB)},
    }
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(rng.normal(size=shape) / 4, jnp.float32)  # noqa: E731
    return jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))


def trained(sizes: dict[str, Any], kind: Any) -> tuple[Any, dict[str, int]]:
    """Parameters after some steps, and bytes on the first device before them."""
    mesh = make_mesh(MeshConfig(**sizes), jax.devices()[: 8 if np.prod(list(sizes.values())) == 8 else 1])
    # So large an epsilon makes the update as smooth as the gradient.
    config = OptimizerConfig(kind=kind, learning_rate=0.05, schedule="constant", eps=0.1, weight_decay=0.1)
    params = shard_params(weights(), tiny.AXES, mesh)
    optimizer = build_optimizer(config, STEPS, params, tiny.AXES)
    state = TrainState.create(params, {"router": jnp.zeros(2)}, optimizer, ema=False)
    batches = [jax.device_put(tiny.batch(0, 8 * i, 8), batch_sharding(mesh)) for i in range(STEPS)]
    with step_mesh(state):
        step = jit_step(train_step(tiny.loss_fn, optimizer, seed=0), state)
        step = step.lower(state, batches[0], ()).compile()
        parts = {"params": state.params, "moments": state.opt_state, "arguments": (state, batches[0])}
        sizes = {name: sum(map(local_bytes, jax.tree.leaves(part))) for name, part in parts.items()}
        sizes["arguments as compiled"] = step.memory_analysis().argument_size_in_bytes
        sizes["sums over devices"] = step.as_text().count(" all-reduce(")
        for batch in batches:
            state, _ = step(state, batch, ())
    return jax.device_get(state.params), sizes


def local_bytes(x: jax.Array) -> int:
    return x.addressable_shards[0].data.nbytes


def main() -> None:
    jax.config.update("jax_disable_most_optimizations", True)  # time goes into compiling
    spread.SMALL = 0  # all that these models have is small
    alone = {kind: trained({"data": 1}, kind) for kind in ("adamw", "muon")}
    found = {}
    for name, (sizes, kind) in CASES.items():
        (params, held), (expected, whole) = trained(sizes, kind), alone[kind]
        error = jax.tree.map(lambda a, b: float(np.abs(a - b).max() / np.abs(b).max()), params, expected)
        found[name] = {"difference": max(jax.tree.leaves(error)), "held": held, "whole": whole}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
