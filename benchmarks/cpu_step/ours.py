"""The same model and weights trained by this stack's own step: guard, clipping and metrics included.

python -m benchmarks.cpu_step.ours FOLDER DTYPE B T
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from data.batch import Batch
from model.config import ModelConfig
from model.layers import restacked
from model.model import axes_of, create, join, split
from model.startup import prepare_kernels
from serving.interchange.files import ModelFolder
from train.objectives import next_token
from train.optimizer import OptimizerConfig, build_optimizer, name_of
from train.step import Aux, TrainState, make_step


def main(folder: str, dtype: str, B: int, T: int) -> None:
    prepare_kernels()
    opened = ModelFolder(folder)
    config = dataclasses.replace(opened.config, dtype=dtype)
    params, buffers = weights(opened, config)
    model = jax.eval_shape(lambda: create(config, opened.vocab_size, 0))
    graph, _, _ = split(model)

    def loss_of(params, buffers, batch, key):
        loss = next_token.loss(join(graph, params, buffers), batch, key)
        return loss.total, Aux(loss.weight, loss.metrics, buffers)

    settings = OptimizerConfig(learning_rate=1e-3, schedule="constant", clip_norm=1.0)
    is_axes = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    paths = jax.tree_util.tree_leaves_with_path(axes_of(model)[0], is_leaf=is_axes)
    axes = {name_of(path): names for path, names in paths}
    optimizer = build_optimizer(settings, 1_000_000, params, axes)
    step = make_step(loss_of, optimizer, seed=0)
    state = TrainState.create(params, buffers, optimizer, ema=False)
    random = np.random.default_rng(0)
    losses = []
    for _ in range(2):
        state, metrics = step(state, batch_of(random.integers(0, opened.vocab_size, (B, T))))
        losses.append(mean(metrics))
    answer(first_losses=losses, jax=jax.__version__)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            state, metrics = step(state, batch_of(random.integers(0, opened.vocab_size, (B, T))))
        answer(loss=mean(metrics), seconds=time.perf_counter() - began)


def weights(folder: ModelFolder, config: ModelConfig):
    """Parameters and buffers of the folder's model, stacked as `config.scan` asks."""
    single = dataclasses.replace(config, scan=False)
    _, params, buffers = split(jax.eval_shape(lambda: create(single, folder.vocab_size, 0)))
    flat = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    arrays = {path: np.empty(leaf.shape, np.float32) for path, leaf in flat.items()}
    for entry, part in folder.parts({path: leaf.shape for path, leaf in flat.items()}):
        arrays[entry.ours][entry.index] = part
    params = jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(arrays[name_of(path)]), params)
    return (restacked(params, config), buffers) if config.scan else (params, buffers)


def batch_of(tokens_BT: np.ndarray) -> Batch:
    """Every row is one document."""
    ones_BT = np.ones(tokens_BT.shape, np.int32)
    positions_BT = np.broadcast_to(np.arange(tokens_BT.shape[1], dtype=np.int32), tokens_BT.shape)
    weights_BT = ones_BT.astype(np.float32)
    return Batch(tokens_BT.astype(np.int32), ones_BT, positions_BT, 0 * ones_BT, weights_BT, ones_BT, {}, {})


def mean(metrics) -> float:
    total, weight = metrics["loss"]
    return float(total) / float(weight)


def answer(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    folder, dtype, B, T = sys.argv[1:]
    main(folder, dtype, int(B), int(T))
