"""Whether devices still hold what they should: silent corruption found by comparing bits, and the rank named.

Copies of one array on several devices must be equal bit for bit. Where the parameters have copies, a number computed
of each device's bits is compared; flips of memory and wrong arithmetic of one device both show. Where they have none,
the step is done twice from a copy of the state, which shows wrong arithmetic that does not repeat itself (Dixit et al.
2021, "Silent data corruptions at scale", finds most faults to be of this kind), and costs the memory of a second state.
A device that is wrong in the same way every time shows only where there are copies.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data.batch import Batch
from train.events import Events
from train.optimizer import name_of
from train.step import Mean, Step, TrainState


class Corrupted(RuntimeError):
    """Devices disagree about what they hold. Checkpoints are of states in which they agreed."""


class Integrity:
    """A step function that checks what it does, every `every` steps, the first of them being `start` + 1.

    Raises Corrupted, in every process, naming ranks, devices and an array.
    """

    def __init__(self, step_fn: Step, state: TrainState, *, start: int, every: int, events: Events | None = None):
        self._step_fn, self._step, self._every, self._events = step_fn, start, every, events or Events(None)
        self._fingerprint = fingerprint_of(state)
        self._has_copies = all(_copies(leaf.sharding) > 1 for leaf in jax.tree.leaves(state.params))
        self._copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Mean]]:
        self._step += 1
        if self._step % self._every:
            return self._step_fn(state, batch)
        before = None if self._has_copies else self._copy(state)
        state, metrics = self._step_fn(state, batch)
        jax.block_until_ready(metrics)
        with self._events.of("check", self._step):
            self.compare(state, self._step)
            if before is not None:
                self._refuse_other_result(state, self._step_fn(before, batch)[0])
        return state, metrics

    def compare(self, state: TrainState, step: int) -> None:
        """Raises Corrupted if copies of an array differ, whatever of the state has copies."""
        found = np.asarray(self._fingerprint(state))
        for leaf, (path, array) in enumerate(jax.tree_util.tree_leaves_with_path(state)):
            wrong, right = odd_ones(found[:, leaf], _groups(array.sharding))
            if wrong:
                _raise(step, name_of(path), f"{_named(array, wrong)} differ{'s' * (len(wrong) == 1)} from {right}")

    def _refuse_other_result(self, state: TrainState, again: TrainState) -> None:
        first, second = (np.asarray(self._fingerprint(x)) for x in (state, again))
        differing = np.argwhere(np.any(first != second, axis=1))[:, 0]
        if not len(differing):
            return
        leaf = int(np.argmax(np.any(first != second, axis=0)))
        path, array = jax.tree_util.tree_leaves_with_path(state)[leaf]
        if len(differing) == len(first) > 1:
            where = "every device, as the fault had spread; which began it cannot be told"
        else:
            where = _named(array, [int(i) for i in differing])
        _raise(
            self._step,
            name_of(path),
            f"the same step, done twice, has two results on {where}. (On GPUs XLA_FLAGS must have "
            "--xla_gpu_deterministic_ops=true, or steps differ by themselves)",
        )


def fingerprint_of(state: Any) -> Any:
    """A function of such a state that gives uint32[devices, leaves], the same in every process.

    Each number is the sum, modulo 2^32, of the shard's bits as integers times odd weights that depend on the place: a
    single flipped bit always changes it, and it is the same in whatever order a backend adds.
    """
    shardings = [leaf.sharding for leaf in jax.tree.leaves(state)]
    mesh = getattr(shardings[0], "mesh", None)
    if not isinstance(mesh, Mesh):
        return jax.jit(lambda tree: jnp.stack([_sum_of_bits(x) for x in jax.tree.leaves(tree)])[None])

    def of_device(*shards: jax.Array) -> jax.Array:
        mine = jnp.stack([_sum_of_bits(x) for x in shards])
        return jax.lax.all_gather(mine, mesh.axis_names)

    specs = tuple(sharding.spec for sharding in shardings)
    gathered = jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
    return jax.jit(lambda tree: gathered(*jax.tree.leaves(tree)))


def odd_ones(values: np.ndarray, groups: list[list[int]]) -> tuple[list[int], str]:
    """Of groups of devices that should have equal values: those that are not as most are, and a word for the others.

    In a tie all of them are named, as nobody can tell which are right.
    """
    wrong: list[int] = []
    tie = False
    for group in groups:
        counts = Counter(int(values[i]) for i in group).most_common()
        if len(counts) == 1:
            continue
        tie = counts[0][1] == counts[1][1]
        wrong += [i for i in group if tie or values[i] != counts[0][0]]
    return wrong, "each other, and none is in the majority" if tie else "the other copies"


def _sum_of_bits(x: jax.Array) -> jax.Array:
    if jnp.iscomplexobj(x):
        x = jnp.stack([x.real, x.imag])
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    width = min(x.dtype.itemsize, 4)
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * width}")).astype(jnp.uint32)
    place, stride = jnp.uint32(0), 1
    for dim in reversed(range(bits.ndim)):
        place += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, dim) * np.uint32(stride % 2**32)
        stride *= bits.shape[dim]
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)


def _groups(sharding: Any) -> list[list[int]]:
    """Positions in the mesh of devices that hold the same part of an array."""
    if not isinstance(sharding, NamedSharding):
        return []
    mesh = sharding.mesh
    assert isinstance(mesh, Mesh)
    cut = {axis for axes in sharding.spec for axis in (axes if isinstance(axes, tuple) else (axes,))}
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, place in enumerate(np.ndindex(*mesh.devices.shape)):
        part = tuple(j for axis, j in zip(mesh.axis_names, place, strict=True) if axis in cut)
        groups.setdefault(part, []).append(i)
    return list(groups.values())


def _copies(sharding: Any) -> int:
    return min((len(group) for group in _groups(sharding)), default=1)


def _named(array: jax.Array, positions: list[int]) -> str:
    mesh = getattr(array.sharding, "mesh", None)
    devices = mesh.devices.flatten()[positions] if isinstance(mesh, Mesh) else list(array.devices())
    names = [f"rank {device.process_index} (device {device.id})" for device in devices]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _raise(step: int, array: str, what: str) -> None:
    raise Corrupted(
        f"silent corruption after step {step}: of {array}, {what}. The run goes on from its last checkpoint, which was "
        "checked; take the host out of service if it is named again."
    )
