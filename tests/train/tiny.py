"""Doubles for the tests of `train`: a two-matrix model and rows that are a pure function of (seed, row index)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs.schema import to_plain
from data.batch import Batch
from train.checkpoint import Assets
from train.phases import Phase
from train.step import Aux

T, VOCAB, WIDTH = 8, 16, 4
AXES = {
    "embed/table": ("vocab", "embed"),
    "layers/up": ("layers", "embed", "mlp"),
    "layers/scale": ("layers", "embed"),
    "out/kernel": ("embed", "vocab"),
}


def init(seed: int = 0):
    """Parameters and buffers."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "embed": {"table": jax.random.normal(keys[0], (VOCAB, WIDTH))},
        "layers": {"up": jax.random.normal(keys[1], (2, WIDTH, WIDTH)) / 2, "scale": jnp.ones((2, WIDTH))},
        "out": {"kernel": jax.random.normal(keys[2], (WIDTH, VOCAB)) / 2},
    }
    return params, {"router": jnp.zeros(2)}


def row(seed: int, index: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng((seed, index))
    length = int(random.integers(T // 2, T + 1))
    real = (np.arange(T) < length).astype(np.int32)
    tokens = (np.cumsum(random.integers(1, 4, T)) % VOCAB).astype(np.int32)
    return {"tokens": tokens * real, "segment_ids": real, "kinds": real + (np.arange(T) % 2).astype(np.int32) * real}


def batch(seed: int, start: int, size: int) -> Batch:
    rows = [row(seed, start + i) for i in range(size)]
    fields = {name: np.stack([r[name] for r in rows]) for name in rows[0]}
    zeros = np.zeros((size, T), np.int32)
    weights = fields["segment_ids"].astype(np.float32)
    return Batch(
        positions=np.arange(T, dtype=np.int32) * fields["segment_ids"],
        span_ids=zeros,
        loss_weights=weights,
        media={},
        values={},
        **fields,
    )


class Rows:
    """A pipeline whose whole state is the index of the next global row. Rows in `bad` hold out-of-range weights."""

    def __init__(self, batch_size: int, seed: int = 0, bad: tuple[int, ...] = ()):
        self.batch_size, self.seed, self.bad = batch_size, seed, bad

    def iterator(self, start_row: int, host: int = 0, num_hosts: int = 1):
        size = self.batch_size // num_hosts
        while True:
            rows = batch(self.seed, start_row + host * size, size)
            hit = [i for i in range(size) if start_row + host * size + i in self.bad]
            rows.loss_weights[hit] = np.nan
            yield rows
            start_row += self.batch_size


def loss_fn(params, buffers, batch, key):
    """Summed next-token cross-entropy with a little noise, a mean per kind and a counting buffer."""
    x = params["embed"]["table"][batch.tokens]
    for up, scale in zip(params["layers"]["up"], params["layers"]["scale"], strict=True):
        x = x + jnp.tanh(x * scale @ up)
    logits = x @ params["out"]["kernel"] + 1e-3 * jax.random.normal(key, (VOCAB,))
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), batch.tokens[:, 1:, None], -1)[..., 0]
    weights, kinds = batch.loss_weights[:, 1:], batch.kinds[:, 1:]
    total = jnp.sum(weights)
    of_kind = {
        f"loss/{name}": (jnp.sum(nll * weights * (kinds == i)), jnp.sum(weights * (kinds == i)))
        for i, name in ((1, "text"), (2, "image"), (3, "proprio"))
    }
    load = jnp.stack([jnp.mean(batch.tokens < VOCAB // 2), jnp.mean(batch.tokens >= VOCAB // 2)])
    buffers = {"router": buffers["router"] + load}
    return jnp.sum(nll * weights), Aux(total, {**of_kind, "router/load": load}, buffers)


def config(**changes):
    """A config of one or two phases; `changes` are dotted paths with `/` for the dot, as `**{"train/steps": 5}`."""
    phase = {
        "objective": "next_token",
        "model": "tiny",
        "mixture": {"text": 1.0},
        "pipeline": {"batch_size": 4, "slots": T},
        "steps": 30,
        "optimizer": {"kind": "muon", "learning_rate": 0.02, "weight_decay": 0.1, "warmup": 0.1},
        "ema": 0.9,
    }
    result = ConfigDict(
        {
            "seed": 0,
            "mesh": {"data": 1},
            "models": {"tiny": {"width": WIDTH}},
            "sources": {"text": {"rows": 0}},
            "phases": {"pretrain": phase, "distil": {**phase, "init": "phase:pretrain"}},
            "train": {"phases": ("pretrain", "distil"), "checkpoint_every": 7, "log_every": 5},
        },
        type_safe=False,
    )
    for path, value in changes.items():
        result.update_from_flattened_dict({path.replace("/", "."): value})
    return result


def build(config, name, teacher=None, bad=()):
    """A `train.phases.Phase` of the doubles above."""
    size = config.phases[name].pipeline.batch_size
    return Phase(
        init=lambda: init(seed=1 if name == "distil" else 0),
        axes=AXES,
        loss_fn=loss_fn,
        pipeline=Rows(size, bad=bad),
        assets=Assets(name, to_plain(config), b"tokenizer", {"mean": [0.0]}, [], batch(0, 0, 2)),
        place=lambda batch: jax.tree.map(jnp.asarray, batch),
        flops=lambda batch: (1e6, 2e6),
        evaluate=lambda state: {"norm": float(jnp.linalg.norm(state.params["out"]["kernel"]))},
    )


def get_config(variant: str = "") -> ConfigDict:
    """A long single phase for the tests that start, kill and restart real processes."""
    assert not variant
    changes = {"train/checkpoint_every": 3, "train/log_every": 1, "phases/pretrain/steps": 40}
    result = config(**changes, **{"phases/pretrain/optimizer/kind": "adamw", "phases/pretrain/accumulate": 2})
    result.train.phases = ("pretrain",)
    del result.phases["distil"]
    return result
