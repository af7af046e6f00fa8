"""`python -m tests.train.checkpoints.across save|restore FOLDER fsdp=2 tensor=2 ...` on all devices of all processes.

Saves steps 1 and 2, or restores the newest whole one and compares every shard that this process holds.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sharding import processes
from sharding.mesh import MeshConfig, make_mesh
from tests.train.checkpoints.states import checkpointer
from train.step import Guard, TrainState

SHAPE = (256, 512)


def values(step):
    """A matrix that is cut over the mesh and a vector that is not; random, so that compression gains nothing."""
    random = np.random.default_rng(step)
    return {"cut": random.standard_normal(SHAPE, np.float32), "whole": random.standard_normal(8, np.float32)}


def placed(tree, mesh):
    def place(x):
        spec = PartitionSpec("fsdp", "tensor") if x.ndim == 2 else PartitionSpec()
        return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda index: x[index])

    return jax.tree.map(place, tree)


def state_of(step, mesh):
    zero = np.int32(0)
    trees = (np.int32(step), values(step), {}, {"moment": values(step + 10)}, None)
    return placed(TrainState(*trees, Guard(np.float32(0), zero, zero, zero)), mesh)


def main(action, folder, *axes):
    processes.start(processes.from_environment())
    sizes = {name: int(size) for name, size in (axis.split("=") for axis in axes)}
    mesh = make_mesh(MeshConfig(**{"data": 1, **sizes}))
    manager = checkpointer(Path(folder))
    if action == "save":
        for step in (1, 2):
            manager.save(state_of(step, mesh), step=step, next_row=step, progress={})
    else:
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_of(0, mesh))
        state, meta = manager.restore(shapes)
        expected = state_of(meta["step"], mesh)
        for found, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
            assert found.sharding == wanted.sharding
            for shard, other in zip(found.addressable_shards, wanted.addressable_shards, strict=True):
                np.testing.assert_array_equal(shard.data, other.data)
        assert jnp.asarray(meta["next_row"]) == meta["step"]
        print(f"rank {jax.process_index()} of {jax.process_count()}: step {meta['step']} is equal", flush=True)
    manager.wait()
    manager.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
