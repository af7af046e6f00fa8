"""Small states and checkpointers for the tests of `train.checkpoints`."""

import dataclasses

import jax
import jax.numpy as jnp

from tests.train import tiny
from train.checkpoint import Assets, Checkpointer
from train.optimizer import OptimizerConfig, build_optimizer
from train.step import TrainState

ASSETS = Assets("pretrain", {"seed": 1}, b"tokens", {"mean": [1.5]}, ["crop"], tiny.batch(0, 0, 2))


def state_of(number, width=1):
    """A state all of whose floats are `number`."""
    params, buffers = tiny.init()
    params = jax.tree.map(lambda p: jnp.tile(p, (width,) + (1,) * (p.ndim - 1)), params)
    state = TrainState.create(params, buffers, build_optimizer(OptimizerConfig(), 10, params, tiny.AXES), ema=True)
    return jax.tree.map(lambda x: jnp.full_like(x, number), state)


def number_of(state):
    """What `state_of` was given, if the state is one that it made."""
    (number,) = {float(value) for x in jax.tree.leaves(state) for value in {x.min().item(), x.max().item()}}
    return number


def checkpointer(folder, **options):
    return Checkpointer(folder / "checkpoints", dataclasses.replace(ASSETS), **{"keep": 3, **options})


def write(folder, *steps, **options):
    """Checkpoints of these steps, each of the state whose numbers are its step."""
    writer = checkpointer(folder, **options)
    for step in steps:
        save(writer, step)
    writer.wait()
    return writer


def save(writer, step, **options):
    writer.save(state_of(step), step=step, next_row=4 * step, progress={}, **options)


def array_file(checkpoint):
    """The largest file of the parameters."""
    files = [path for path in (checkpoint / "params").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def flip_a_bit(path, place=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(content)
