import dataclasses
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from tests.train.tiny_config import model, text_config
from train.build import build_phase
from train.checkpoint import Checkpoint, Checkpointer
from train.distill_store.writer import Written, write
from train.optimizer import OptimizerConfig, build_optimizer
from train.step import TrainState


@dataclasses.dataclass(frozen=True)
class Taught:
    """A finished teacher, and what writes stores for the student phase `learn` of the same config."""

    config: ConfigDict
    teacher: Checkpoint

    def write(self, folder: Path, config: ConfigDict | None = None, **changes) -> Written:
        """Two shards of four rows if nothing else is said."""
        settings = {"kind": "sampled", "num": 12, "rows": 8, "batches_per_shard": 2} | changes
        return write(config or self.config, "learn", self.teacher, folder, **settings)


@pytest.fixture(scope="package")
def taught(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.rows.CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr("train.metrics.peak_flops", lambda: (1e9, "given"))
        jax.config.update("jax_disable_most_optimizations", True)  # time goes into compiling; see `quick_compilation`
        folder, config = tmp_path_factory.mktemp("run"), text_config(tmp_path_factory.mktemp("text"))
        config.models = {
            name: model(num_layers=1, pattern=("global",), recurrent=None) for name in ("teacher", "student")
        }
        yield Taught(config, as_initialised(config, folder))
        jax.config.update("jax_disable_most_optimizations", False)
        jax.clear_caches()


def as_initialised(config: ConfigDict, folder: Path) -> Checkpoint:
    """A checkpoint of phase `teach`, its parameters scaled so that it is sure of some words."""
    phase = build_phase(config, "teach", None)
    params, buffers = phase.init()
    params = jax.tree.map(lambda x: 3 * x, params)
    optimizer = build_optimizer(OptimizerConfig(), 1, params, phase.axes)
    checkpointer = Checkpointer(folder / "checkpoints", phase.assets)
    checkpointer.save(TrainState.create(params, buffers, optimizer, ema=True), step=1, next_row=0, progress={})
    checkpointer.wait()
    checkpointer.close()
    return Checkpoint.open(folder)


@pytest.fixture(scope="package")
def stores(taught, tmp_path_factory):
    """One store of each kind, by kind."""
    folders = {kind: tmp_path_factory.mktemp("stores") / kind for kind in ("sampled", "topk")}
    for kind, folder in folders.items():
        taught.write(folder, kind=kind)
    return folders
