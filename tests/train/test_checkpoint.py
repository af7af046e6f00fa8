import dataclasses
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train import tiny
from train.checkpoint import (
    Assets,
    Checkpoint,
    Checkpointer,
    CheckpointError,
    refuse_other_config,
    refuse_other_tokenizer,
)
from train.optimizer import OptimizerConfig, build_optimizer
from train.step import TrainState

ASSETS = Assets("pretrain", {"seed": 1, "models": {"m": {"width": 4}}}, b"tokens", {"mean": [1.5]}, ["crop"], None)


def assets(**changes):
    return dataclasses.replace(ASSETS, example_batch=tiny.batch(0, 0, 2), **changes)


def make_state(kind="adamw", width=1):
    params, buffers = tiny.init()
    params = jax.tree.map(lambda p: jnp.tile(p, (width,) + (1,) * (p.ndim - 1)), params)
    config = OptimizerConfig(kind=kind, freeze=("out",))
    return TrainState.create(params, buffers, build_optimizer(config, 10, params, tiny.AXES), ema=True)


def write(folder, *steps, keep=3, state=None):
    checkpointer = Checkpointer(folder / "checkpoints", assets(), keep=keep)
    for step in steps:
        checkpointer.save(state or make_state(), step=step, next_row=4 * step, progress={"totals": {"tokens": 7.0}})
    checkpointer.wait()
    return checkpointer


def save_now(checkpointer, state, step):
    checkpointer.save(state, step=step, next_row=4 * step, progress={})
    checkpointer.wait()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_state_comes_back_bit_identical_with_the_data_position(tmp_path, kind):
    state = jax.tree.map(lambda x: x + 1, make_state(kind))
    restored, meta = write(tmp_path, 5, state=state).restore(make_state(kind))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert (meta["step"], meta["next_row"], meta["progress"]) == (5, 20, {"totals": {"tokens": 7.0}})


def test_a_checkpoint_opens_without_the_config_that_made_it(tmp_path):
    state = make_state()
    write(tmp_path, 5, 9, state=state)
    for path in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "9"):
        assert Checkpoint.open(path).step == 9
    checkpoint = Checkpoint.open(tmp_path)
    assert (checkpoint.phase, checkpoint.config, checkpoint.vocabulary_bytes) == ("pretrain", ASSETS.config, b"tokens")
    assert (checkpoint.statistics, checkpoint.transforms) == ({"mean": [1.5]}, ["crop"])
    jax.tree.map(np.testing.assert_array_equal, checkpoint.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.weights, state.ema)
    assert isinstance(checkpoint.params["embed"]["table"], np.ndarray)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.example_batch, tiny.batch(0, 0, 2))
    jax.tree.map(np.testing.assert_array_equal, checkpoint.read_like("buffers", state.buffers), state.buffers)


def test_only_the_latest_checkpoints_are_kept(tmp_path):
    write(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]


def test_an_unfinished_checkpoint_is_never_read_and_is_cleaned_up(tmp_path):
    write(tmp_path, 3).close()
    torn = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    (torn / "params").mkdir(parents=True)
    assert Checkpoint.open(tmp_path).step == 3
    assert write(tmp_path, 4).latest_step() == 4
    assert not torn.exists()


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no finished checkpoint"):
        Checkpoint.open(tmp_path)


def test_another_config_is_refused_naming_the_fields(tmp_path):
    write(tmp_path, 1)
    stored = Checkpoint.open(tmp_path)
    refuse_other_config(stored, ASSETS.config, ())
    other = {"seed": 2, "models": {"m": {"width": 8, "depth": 1}, "n": {}}}
    with pytest.raises(ValueError, match="seed: 1 in the checkpoint, 2 now") as error:
        refuse_other_config(stored, other, ("models.n", "models.m.depth"))
    assert "models.m.width: 4 in the checkpoint, 8 now" in str(error.value)
    assert "depth" not in str(error.value)
    assert "models.n" not in str(error.value)
    refuse_other_config(stored, other, ("seed", "models"))


def test_another_tokenizer_is_refused(tmp_path):
    write(tmp_path, 1)
    refuse_other_tokenizer(Checkpoint.open(tmp_path), b"tokens")
    with pytest.raises(ValueError, match=r"config's tokenizer is .* set config\.vocabulary"):
        refuse_other_tokenizer(Checkpoint.open(tmp_path), b"other")


def test_a_full_disk_is_an_error_that_keeps_the_last_good_checkpoint(tmp_path):
    checkpointer = write(tmp_path, 1, state=make_state(width=512), keep=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # bytes a file may have; Python ignores the signal
    try:
        with pytest.raises(CheckpointError, match="last good checkpoint: step 1 is intact"):
            save_now(checkpointer, make_state(width=512), 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Checkpoint.open(tmp_path).params["embed"]["table"].shape == (tiny.VOCAB * 512, tiny.WIDTH)
    again = Checkpointer(tmp_path / "checkpoints", assets(), keep=1)
    assert again.latest_step() == 1
    save_now(again, make_state(width=512), 2)
    assert Checkpoint.open(tmp_path).step == 2


def test_a_folder_that_cannot_be_made_is_an_error_that_names_the_remedy(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"there is none yet\. Free some space or correct the permissions"):
        Checkpointer(tmp_path / "file" / "checkpoints", assets())


ON_FOUR_DEVICES = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from sharding.mesh import MeshConfig, make_mesh
from sharding.rules import shard_params
from tests.train import test_checkpoint as t
from train.abstract import abstract_state
from train.optimizer import OptimizerConfig, build_optimizer
from train.step import TrainState, make_step
mesh = make_mesh(MeshConfig(data=2, fsdp=2))
params, buffers = jax.tree.map(jnp.zeros_like, t.tiny.init())
params, buffers = shard_params(params, t.tiny.AXES, mesh), shard_params(buffers, {"router": (None,)}, mesh)
optimizer = build_optimizer(OptimizerConfig(freeze=("out",)), 10, params, t.tiny.AXES)
made = TrainState.create(params, buffers, optimizer, ema=True)
shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (params, buffers))
like = abstract_state(*shapes, optimizer, ema=True)
for x, y in zip(jax.tree.leaves(like), jax.tree.leaves(made), strict=True):
    assert (x.shape, x.dtype) == (y.shape, y.dtype) and x.sharding.is_equivalent_to(y.sharding, x.ndim), (x, y.sharding)
state, _ = t.Checkpointer(Path(sys.argv[1]) / "checkpoints", t.assets()).restore(like)
assert len(state.params["embed"]["table"].sharding.device_set) == 4
assert all(len(x.sharding.device_set) == 4 for x in jax.tree.leaves(state))
jax.tree.map(np.testing.assert_array_equal, state, jax.tree.map(lambda x: x + 1, t.make_state()))
placed = jax.tree.map(lambda x: x.sharding, state)
step = make_step(t.tiny.loss_fn, optimizer, seed=0, ema=0.5)
alone, single = jax.tree.map(lambda x: x + 1, t.make_state()), make_step(t.tiny.loss_fn, optimizer, seed=0, ema=0.5)
for i in range(2):
    rows = t.tiny.batch(0, 4 * i, 4)
    (state, metrics), (alone, expected) = step(state, rows), single(alone, rows)
    np.testing.assert_allclose(metrics["gradient_norm"][0], expected["gradient_norm"][0], rtol=1e-4)
assert jax.tree.map(lambda x: x.sharding, state) == placed
print("equal")
"""


def test_a_checkpoint_of_one_device_goes_on_on_four(tmp_path):
    write(tmp_path, 1, state=jax.tree.map(lambda x: x + 1, make_state()))
    root = Path(__file__).parents[2]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", ON_FOUR_DEVICES, str(tmp_path)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "equal", done.stderr
