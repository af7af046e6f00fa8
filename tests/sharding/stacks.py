"""The stacks of docs/support.md: one train step of each on a mesh, and all that it leaves."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from data.batch import Batch
from docs import support as docs
from model.config import (
    AttentionConfig,
    DenseConfig,
    ImageConfig,
    ModelConfig,
    MoEConfig,
    RecurrentConfig,
    RobotConfig,
)
from model.model import axes_of, create, join, next_buffers
from sharding.mesh import MeshConfig, batch_sharding, make_mesh
from sharding.processes import place_rows
from sharding.rules import shard_params
from tests.model.documents import VOCAB, pack, robot_document
from tests.model.weights import random_states
from tests.sharding.on_devices import devices_of, outcome, sizes_of
from train.objectives import next_token
from train.optimizer import OptimizerConfig, build_optimizer
from train.step import Aux, TrainState, make_step
from train.teacher import by_name

NUM_ROWS, NUM_SLOTS = 8, 32
LENGTHS = ((9, 12, 8), (14, 15), (7, 7, 18), (32,))  # of the documents in packed rows
ATTENTION = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=8)
SECTIONS = {
    "local_attention": dataclasses.replace(ATTENTION, window=7, softcap=5.0),
    "global_attention": dataclasses.replace(ATTENTION, sink=True),
    "dense": DenseConfig(hidden_dim=24),
    "moe": MoEConfig(num_experts=4, top_k=2, hidden_dim=12, shared_dim=8, bias_rate=0.01),
    "recurrent": RecurrentConfig(num_states=8),
    "image": ImageConfig(height=16, width=16, patch_size=8, stem_dim=4),
    "robot": RobotConfig(num_embodiments=2, width=5, chunk=3),
}
LAYERS: dict[str, tuple[int, tuple, tuple]] = {  # number, mixers, feed-forwards
    "dense": (2, ("local", "global"), ("dense",)),
    "moe": (2, ("global",), ("moe",)),
    "hybrid": (3, ("recurrent", "local", "global"), ("dense", "moe", "moe")),
}
# So large an epsilon makes the update as smooth as the gradient, which is then told by the first moment.
OPTIMIZER = OptimizerConfig(learning_rate=0.1, schedule="constant", eps=0.1, clip_norm=None, b1=0.5)


def config(name: str) -> ModelConfig:
    num_layers, pattern, ffn = LAYERS[name]
    used = {*pattern, *ffn, *(("image", "robot") if name == "hybrid" else ())}
    sections: Any = {key: value for key, value in SECTIONS.items() if key.removesuffix("_attention") in used}
    sections["num_codes"] = 4  # the last ids are numbers
    return ModelConfig(model_dim=16, num_layers=num_layers, pattern=pattern, ffn=ffn, **sections)


def batch(rows: str, *, images: bool) -> Batch:
    """Packed: documents and images across every border between devices; unpacked: one document, then padding."""
    rng = np.random.default_rng(0)

    def row(index: int) -> Batch:
        lengths = LENGTHS[index % len(LENGTHS)] if rows == "packed" else (NUM_SLOTS - 3 * index,)
        return pack([robot_document(rng, n, i + 1) for i, n in enumerate(lengths)], num_slots=NUM_SLOTS)

    whole = jax.tree.map(lambda *parts: np.concatenate(parts), *map(row, range(NUM_ROWS)))
    if images:
        return whole
    return dataclasses.replace(whole, media={}, values={}, span_ids=np.zeros_like(whole.span_ids))


@contextlib.contextmanager
def prepared(name: str) -> Iterator[Callable[[str], dict[str, str]]]:
    """What tells whether a step on some axes leaves what it leaves on one device, for packed and for unpacked rows."""
    stack = Stack(name)
    alone = stack.steps("")

    def outcomes_on(axes: str) -> dict[str, str]:
        found = stack.steps(axes)
        return {f"{axes}, {rows}": outcome(found[rows], alone[rows]) for rows in docs.ROWS}

    yield outcomes_on


class Stack:
    """One stack, with the same random weights on every mesh."""

    def __init__(self, name: str):
        self.config = config(name)
        self.batches = {rows: batch(rows, images=self.config.image is not None) for rows in docs.ROWS}
        self.graph, self.params, self.buffers = random_states(self.config, VOCAB)
        model = jax.eval_shape(lambda: create(self.config, VOCAB, 0))
        self.axes, self.buffer_axes = (by_name(tree) for tree in axes_of(model))

    def loss_fn(self, params, buffers, batch, key):
        loss = next_token.loss(join(self.graph, params, buffers), batch, key)
        return loss.total, Aux(loss.weight, loss.metrics, next_buffers(self.config, buffers, loss.router))

    def steps(self, axes: str) -> dict[str, dict[str, Any]]:
        """What the first step leaves, on each kind of rows."""
        sizes = sizes_of(axes)
        mesh = make_mesh(MeshConfig(**sizes), devices_of(sizes))
        optimizer = build_optimizer(OPTIMIZER, 1, self.params, self.axes)
        step = make_step(self.loss_fn, optimizer, seed=0)  # one program serves all kinds of rows
        return {rows: self._step(step, optimizer, self.batches[rows], mesh) for rows in docs.ROWS}

    def _step(self, step: Any, optimizer: Any, batch: Batch, mesh: Mesh) -> dict[str, Any]:
        params = shard_params(jax.tree.map(jnp.copy, self.params), self.axes, mesh)  # the step takes its state
        buffers = shard_params(jax.tree.map(jnp.copy, self.buffers), self.buffer_axes, mesh)
        state = TrainState.create(params, buffers, optimizer, ema=False)
        state, metrics = step(state, jax.tree.map(lambda x: place_rows(x, batch_sharding(mesh), 1), batch))
        state, metrics = jax.device_get((state, metrics))
        return {
            "metrics": {name: total / np.maximum(weight, 1e-9) for name, (total, weight) in metrics.items()},
            "gradient": jax.tree.map(lambda mu: mu / (1 - OPTIMIZER.b1), optax.tree.get(state.opt_state, "mu")),
            "params": state.params,
            "buffers": state.buffers,
        }
