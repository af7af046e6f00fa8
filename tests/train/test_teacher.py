"""A teacher on a mesh: every parameter lies where its own rule says, and says what it says on one device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import tempfile
from pathlib import Path

import jax
import numpy as np

import train.rows
from sharding.mesh import MeshConfig, make_mesh
from sharding.rules import spec_for
from tests.train.distill_store.conftest import as_initialised
from tests.train.tiny_config import text_config
from train.build import build_phase
from train.rows import rows_of
from train.distill_store.reader import Store
from train.distill_store.writer import write
from train.optimizer import name_of
from train.teacher import Teacher

folder = Path(tempfile.mkdtemp())
train.rows.CACHE = folder / "cache"
config = text_config(folder)
config.mesh = {"data": 2, "tensor": 2}
config.models.teacher.global_attention.num_kv_heads = 2
checkpoint, phase = as_initialised(config, folder / "run"), build_phase(config, "teach", None)
rows, vocabulary = rows_of(config, "learn")

mesh = make_mesh(MeshConfig(data=2, tensor=2))
teacher, split = Teacher.of(checkpoint, vocabulary, mesh), 0
for path, leaf in jax.tree_util.tree_leaves_with_path(teacher.params):
    spec = spec_for(phase.axes[name_of(path)], mesh, leaf.shape)
    assert leaf.sharding.spec == spec, name_of(path)
    split += leaf.addressable_data(0).size < leaf.size
assert split > 3
jax.tree.map(np.testing.assert_array_equal, teacher.params, checkpoint.ema)
jax.tree.map(np.testing.assert_array_equal, teacher.buffers, checkpoint.buffers)

stores = []
for number, sizes in enumerate(({"data": 2, "tensor": 2}, {"data": 4}, {"data": 1, "fsdp": 2, "tensor": 2})):
    config.mesh = sizes
    if number == 1:
        config.phases.learn.pipeline.batch_size = 4
    out = folder / f"store{number}"
    write(config, "learn", checkpoint, out, kind="topk", num=50, rows=8, batches_per_shard=4 // (1 + number % 2))
    stores.append([Store(out).add(r, rows.row(r)).values for r in range(8)])
for there, here in zip(stores[0] * 2, [*stores[1], *stores[2]], strict=True):
    np.testing.assert_allclose(np.exp(there["teacher_rest"]), np.exp(here["teacher_rest"]), atol=1e-3)
    np.testing.assert_allclose(there["teacher_entropy"], here["teacher_entropy"], atol=5e-3)
print("equal on", jax.device_count(), "devices")
"""


@pytest.mark.slow
def test_a_teacher_is_laid_over_the_mesh_and_its_store_is_that_of_any_other_mesh():
    root = Path(__file__).parents[2]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PYTHONPATH": str(root)}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, env=environment, capture_output=True, text=True)
    assert "equal on 4 devices" in done.stdout, done.stderr
