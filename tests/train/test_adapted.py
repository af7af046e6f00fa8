"""Phases that train adapters: real ones, from a text model to what serves it."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from serving.model import LoadedModel
from tests.train.tiny_config import model, text_config
from train.build import build_phase
from train.checkpoint import Checkpoint
from train.loop import Preempted
from train.phases import run

pytestmark = pytest.mark.usefixtures("quick_compilation", "own_cache")

LORA = {"rank": 2, "alpha": 4.0, "targets": ("^stack/",), "whole": ("^norm/",)}


def adapting(folder, **changes):
    """`teach` trains a model, `adapt` trains adapters of it."""
    config = text_config(folder)
    small = {**model(), "num_layers": 1, "pattern": ("global",), "recurrent": None}
    config.models = {"teacher": small, "student": small}
    config.phases.adapt = {**config.phases.teach.to_dict(), "init": "phase:teach", "lora": LORA, "steps": 4}
    del config.phases["learn"]
    config.train.phases = ("teach", "adapt")
    for name, value in changes.items():
        config.phases.adapt[name] = value
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapted")
    config = adapting(folder)
    return config, folder / "run", run(config, folder / "run", build_phase)


def test_a_phase_trains_its_adapters_and_what_it_names_and_nothing_else(finished):
    _, workdir, _ = finished
    before, after = (Checkpoint.open(workdir / name).weights for name in ("teach", "adapt"))
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)
    flat = {
        jax.tree_util.keystr(p, simple=True, separator="/"): c for p, c in jax.tree_util.tree_leaves_with_path(changed)
    }
    matrices = ("mixer/query", "mixer/key", "mixer/value", "mixer/out", "ffn/gate", "ffn/up", "ffn/down")
    expected = {name for name in flat if name.endswith(matrices)} | {"norm/scale"}
    assert {name for name, moved in flat.items() if moved} == expected
    assert len(expected) == len(matrices) + 1


def test_its_checkpoint_is_a_whole_model_to_all_that_reads_it(finished):
    _, workdir, _ = finished
    before, after = (Checkpoint.open(workdir / name) for name in ("teach", "adapt"))
    for item in ("params", "ema"):
        shapes = [jax.tree.map(np.shape, getattr(checkpoint, item)) for checkpoint in (before, after)]
        assert shapes[0] == shapes[1]
    loaded = LoadedModel.of(after)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, after.ema)


def test_its_report_tells_the_size_of_the_model_and_of_what_is_trained(finished):
    _, _, results = finished
    trained, whole = (results["adapt"][name] for name in ("trained_parameters", "parameters"))
    assert whole == results["teach"]["parameters"] == results["teach"]["trained_parameters"]
    sides = [(16, 16), (16, 8), (16, 8), (16, 16), *[(16, 16)] * 3]  # query, key, value, out; gate, up, down
    assert trained == 2 * sum(i + o for i, o in sides) + 16


def test_evaluation_sees_the_merged_model(finished):
    """What the phase reports of held-out text is the loss of its checkpoint."""
    config, workdir, results = finished
    phase = build_phase(config, "adapt", None)
    stored = Checkpoint.open(workdir / "adapt")
    weights = jax.tree.map(jax.numpy.asarray, (stored.weights, stored.buffers))
    params, buffers = weights
    state = type("State", (), {"params": params, "ema": None, "buffers": buffers})()
    found = phase.evaluate(state)
    assert found == pytest.approx(results["adapt"]["evaluation"], rel=1e-5)


def test_a_phase_that_was_interrupted_ends_bit_identical_even_without_what_it_began_with(
    finished, tmp_path, monkeypatch
):
    config, workdir, _ = finished
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "teach").symlink_to(workdir / "teach")
    config = config.copy_and_resolve_references()
    config.train.checkpoint_every = 2
    monkeypatch.setattr("train.loop.Preemption.reached", lambda self, step: step == 2)
    with pytest.raises(Preempted):
        run(config, tmp_path / "run", build_phase, only="adapt")
    monkeypatch.undo()
    monkeypatch.setattr("train.metrics.peak_flops", lambda: (1e9, "given"))
    monkeypatch.setattr("train.phases._PhaseRun._take_over", lambda *_: pytest.fail("taken over twice"))
    run(config, tmp_path / "run", build_phase, only="adapt")
    found, expected = (Checkpoint.open(folder / "adapt") for folder in (tmp_path / "run", workdir))
    for item in ("params", "ema", "buffers"):
        jax.tree.map(np.testing.assert_array_equal, getattr(found, item), getattr(expected, item))


ON_TWO_DEVICES = """
import pathlib, sys, jax
from tests.train.test_adapted import adapting
from train.build import build_phase
from train.phases import run
assert len(jax.devices()) == 2
folder = pathlib.Path(sys.argv[1])
config = adapting(folder)
config.mesh = {"fsdp": 2}
run(config, folder / "run", build_phase, only="adapt")
"""


@pytest.mark.slow
def test_adapters_are_trained_alike_on_a_mesh(finished, tmp_path):
    _, workdir, _ = finished
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "teach").symlink_to(workdir / "teach")
    root = Path(__file__).parents[2]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", ON_TWO_DEVICES, str(tmp_path)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, expected = (Checkpoint.open(folder / "adapt") for folder in (tmp_path / "run", workdir))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found.params, expected.params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "scratch"}, "config.phases.adapt.lora adapts a trained model but init is 'scratch'"),
        ({"optimizer": {"kind": "muon"}}, "config.phases.adapt.optimizer.kind is 'muon', which is not for the thin"),
        ({"lora": {"rank": 0}}, "config.phases.adapt.lora.rank is 0; it must be at least 1"),
        ({"lora": {"targets": ("heads/",)}}, "config.phases.adapt.lora: targets has 'heads/', which matches none"),
    ],
)
def test_what_does_not_go_with_adapters_is_refused_by_the_field(tmp_path, changes, message):
    with pytest.raises(ValueError) as error:
        build_phase(adapting(tmp_path, **changes), "adapt", None)
    assert str(error.value).startswith(message)
