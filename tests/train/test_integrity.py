import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train import tiny
from train.integrity import Corrupted, Integrity, fingerprint_of, odd_ones
from train.optimizer import OptimizerConfig, build_optimizer
from train.step import TrainState, make_step

ROOT = Path(__file__).parents[2]
BATCH = tiny.batch(0, 0, 4)


def new_state(place=lambda x: x):
    params, buffers = jax.tree.map(place, tiny.init())
    optimizer = build_optimizer(OptimizerConfig(learning_rate=0.01), 10, params, tiny.AXES)
    return TrainState.create(params, buffers, optimizer, ema=True), make_step(tiny.loss_fn, optimizer, seed=0, ema=0.5)


def flipped(array, device, bit=0):
    """The same array, one bit of whose first number is another on one device alone (on none for None)."""
    shards = []
    for shard in array.addressable_shards:
        data = np.array(shard.data)
        if shard.device.id == device:
            data.view(np.uint32).reshape(-1)[0] ^= np.uint32(1 << bit)
        shards.append(jax.device_put(data, shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards)


def with_fault(state, device):
    state.params["layers"]["up"] = flipped(state.params["layers"]["up"], device)
    return state


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.int8, jnp.bool_, jnp.complex64])
def test_a_single_flipped_bit_anywhere_always_changes_the_fingerprint(dtype):
    x = np.array(jax.random.normal(jax.random.key(0), (3, 4)).astype(dtype))
    print_ = fingerprint_of({"x": jnp.asarray(x)})
    expected = print_({"x": x})
    bits = [0] if dtype == jnp.bool_ else range(8)  # other bits are no booleans
    for place, bit in itertools.product(range(x.nbytes), bits):
        other = x.copy()
        other.view(np.uint8).reshape(-1)[place] ^= np.uint8(1 << bit)
        assert print_({"x": other}) != expected, (place, bit)


def test_exchanged_numbers_change_the_fingerprint():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    print_ = fingerprint_of({"x": jnp.asarray(x)})
    assert print_({"x": x}) != print_({"x": x[::-1].copy()})


@pytest.mark.parametrize(
    ("values", "wrong"), [([5, 5, 5, 5], []), ([5, 6, 5, 5], [1]), ([5, 6, 7, 5], [1, 2]), ([5, 6, 6, 5], [0, 1, 2, 3])]
)
def test_the_majority_is_right_and_in_a_tie_nobody_is(values, wrong):
    assert odd_ones(np.array(values), [[0, 1, 2, 3]])[0] == wrong


def test_groups_are_judged_each_by_itself():
    assert odd_ones(np.array([1, 2, 1, 2]), [[0, 2], [1, 3]])[0] == []


def test_on_one_device_a_step_that_has_two_results_is_noticed():
    state, step_fn = new_state()
    results = itertools.count()

    def faulty(state, batch):
        state, metrics = step_fn(state, batch)
        return (with_fault(state, 0) if next(results) == 2 else state), metrics

    checked = Integrity(faulty, state, start=0, every=2)
    state, _ = checked(state, BATCH)  # is not checked
    with pytest.raises(
        Corrupted, match=r"after step 2: of params/layers/up, the same step, done twice, has two results"
    ):
        checked(state, BATCH)


def test_without_a_fault_checks_change_nothing():
    (state, step_fn), (alone, _) = new_state(), new_state()
    checked = Integrity(step_fn, state, start=0, every=1)
    for _ in range(2):
        (state, _), (alone, _) = checked(state, BATCH), step_fn(alone, BATCH)
    jax.tree.map(np.testing.assert_array_equal, state, alone)


ON_EIGHT_DEVICES = """
import jax
from jax.sharding import NamedSharding, PartitionSpec as P
from sharding.mesh import MeshConfig, make_mesh
from tests.train import test_integrity as t
from train.integrity import Corrupted, Integrity

def check(spec, fault_on, **axes):
    mesh = make_mesh(MeshConfig(**axes))
    place = lambda x: jax.device_put(x, NamedSharding(mesh, spec if x.ndim == 3 else P()))
    state, calls = t.new_state(place)[0], []
    step_fn = jax.jit(lambda state, batch: (jax.tree.map(lambda x: x + 1, state), {}), donate_argnums=0)
    def faulty(state, batch):
        state, metrics = step_fn(state, batch)
        calls.append(1)
        return (t.with_fault(state, fault_on) if len(calls) == 2 else state), metrics
    checked = Integrity(faulty, state, start=0, every=2)
    try:
        for _ in range(2):
            state, _ = checked(state, t.BATCH)
    except Corrupted as error:
        return str(error)
    return "equal"

print(check(P(), None, data=8))
print(check(P(), 5, data=8))
print(check(P(None, "fsdp"), 5, data=4, fsdp=2))
print(check(P(None, "fsdp"), 5, data=2, fsdp=4))
print(check(P(None, "fsdp", "tensor"), None, data=1, fsdp=4, tensor=2))
print(check(P(None, "fsdp", "tensor"), 6, data=1, fsdp=4, tensor=2))
"""
PATIENT = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=300 --xla_cpu_collective_call_terminate_timeout_seconds=900"
)


def test_a_bit_flipped_on_one_device_of_a_mesh_is_found_and_the_device_named():
    flags = f"--xla_force_host_platform_device_count=8 {PATIENT}"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", ON_EIGHT_DEVICES]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sound, of_eight, of_four, of_two, sound_alone, alone = done.stdout.strip().splitlines()
    assert sound == sound_alone == "equal"
    one = "silent corruption after step 2: of params/layers/up, rank 0 (device 5) differs from the other copies"
    assert of_eight.startswith(one)
    assert of_four.startswith(one)
    assert "rank 0 (device 1), rank 0 (device 5) differ from each other, and none is in the majority" in of_two
    assert "done twice, has two results on rank 0 (device 6)." in alone
