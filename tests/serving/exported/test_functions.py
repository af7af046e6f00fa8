"""The functions of a policy: chunks and plans for any number of observations, as our own policy makes them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from serving.export import export_stablehlo
from serving.exported.functions import Functions, observed
from serving.exported.weights import Weights, stored_tensors
from serving.interchange.source import Source
from serving.policy import Observation, Policy
from tests.data.tiny_robots import SIZE, TASKS
from tests.train.tiny_config import robot_config
from train.build import build_phase
from train.checkpoint import Checkpoint
from train.phases import run

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Two steps of flow matching on two made-up arms."""
    workdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.metrics.peak_flops", lambda: (1e9, "given"))
        run(robot_config(tmp_path_factory.mktemp("robots")), workdir, build_phase)
    return Checkpoint.open(workdir / "act")


def observation(seed: int) -> Observation:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    return Observation((pixels,), TASKS[seed % 2], rng.normal(5, 2, 5).astype("f4"), "arm3")


def inputs_of(batch, **more):
    named = {
        jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree_util.tree_leaves_with_path(batch)
    }
    for unused in ("loss_weights", "kinds", "values/action"):
        del named[unused]
    return named | more


def test_an_exported_policy_makes_the_chunks_of_ours_for_any_number_of_observations(checkpoint, tmp_path):
    _, apart = export_stablehlo(checkpoint, tmp_path / "out")
    assert apart < 1e-4
    assert (tmp_path / "out/statistics.json").is_file()
    assert (tmp_path / "out/transforms.json").is_file()
    weights = {name: tensor.read() for name, tensor in stored_tensors(tmp_path / "out").items()}
    act = jax.jit(export.deserialize(bytearray((tmp_path / "out/policy.jax_export").read_bytes())).call)
    for count in (3,):
        policy = Policy(checkpoint, batch_size=count)
        seen = [observation(seed) for seed in range(count)]
        samples, batch = policy.observer.observe(seen, count)
        keys = [jax.random.fold_in(jax.random.key(0), number) for number in range(count)]
        noise = np.stack([jax.random.normal(key, batch.values["action"].shape[1:]) for key in keys])
        chunks = act(weights, inputs_of(batch, noise=noise))
        for sample, o, chunk_CA, wanted in zip(samples, seen, np.asarray(chunks), policy.act(seen), strict=True):
            np.testing.assert_allclose(policy.observer.in_units(sample, o, chunk_CA), wanted, atol=1e-3)
    arguments = json.loads((tmp_path / "out/manifest.json").read_text())["functions"]["policy"]["arguments"]["inputs"]
    assert arguments["media/image"] == {"shape": ["b", 1, SIZE, SIZE, 3], "dtype": "uint8"}
    assert arguments["tokens"]["shape"] == ["b", 24]


def test_a_plan_is_a_function_of_its_own(checkpoint):
    """Codes that a model writes before it acts; between the two functions they become numbers it feels."""
    source = Source(checkpoint)
    policy = Policy(checkpoint, batch_size=2)
    rows = dataclasses.replace(policy.observer.rows, plan_length=2, plan_bins=8)
    functions = Functions(source.config, source.vocabulary, Weights.of(source, None), rows, policy.head)
    assert functions.all().keys() == {"prefill", "decode", "policy", "plan"}
    plan = functions.all()["plan"]
    exported = export.export(jax.jit(plan.run), platforms=("cpu", "cuda", "tpu"))(*plan.arguments)
    params = source.cached(0)
    weights = {path: jnp.asarray(source.read(params, path)) for path in source.shapes}
    seen = [observation(seed) for seed in range(2)]
    _, batch = policy.observer.observe(seen, 2)
    inputs = jax.tree.map(jnp.asarray, inputs_of(batch))
    found = exported.call(weights, inputs)
    model = functions.model(weights)
    np.testing.assert_array_equal(found, rows.plan(model, observed(inputs), source.vocabulary))
    assert found.shape == (2, 2)
