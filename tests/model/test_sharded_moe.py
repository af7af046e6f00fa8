"""Experts on several devices: the numbers of one device, and nothing but rows and routers on the wire."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import pytest

from tests.eight_devices import results_of
from tests.model.sharded_moe_cases import BIASES, MESHES, E, K


@pytest.fixture(scope="module")
def layers():
    return results_of("tests.model.sharded_moe_cases", "layers")


@pytest.fixture(scope="module")
def exchanges():
    return results_of("tests.model.sharded_moe_cases", "exchanges")


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("mesh", [*MESHES, "beside a dense one"])
def test_outputs_gradients_and_statistics_are_those_of_one_device(layers, mesh, bias):
    assert layers[mesh][bias] < 1e-5


@pytest.mark.parametrize("mesh", MESHES)
def test_experts_stay_where_they_are(layers, mesh):
    """Of the experts' matrices only slices of the model's width are gathered, those of the device's own experts."""
    own = E // MESHES[mesh].get("expert", 1)
    matrices = [shape for shape in layers[mesh]["gathered"] if shape.count(",") == 2]
    assert all(shape.startswith(f"f32[{own},") for shape in matrices), matrices
    assert bool(matrices) == ("fsdp" in MESHES[mesh])


def test_rows_that_fit_go_in_one_window(exchanges):
    found = exchanges["all"]
    assert found["difference"] < 1e-5
    assert found["windows"] == 1
    assert found["sent as counted"]


def test_rows_that_all_go_to_one_device_go_in_several_windows_of_a_bounded_size(exchanges):
    found = exchanges["one"]
    assert found["difference"] < 1e-5
    assert found["windows"] == -(-4 * 64 * K // found["capacity"]) > 1
    assert found["fullest"] == found["capacity"] < 4 * 64 * K
    assert found["sent as counted"]


ROOT = pathlib.Path(__file__).parents[2]
COMPILERS = ROOT / ".venv-aot/bin/python"  # what `make aot` makes


@pytest.mark.slow
@pytest.mark.skipif(not COMPILERS.exists(), reason="needs the compilers of `make aot`")
@pytest.mark.parametrize("machine", ["v5p:2x2x1", "h200:4"])
def test_on_accelerators_rows_travel_by_ragged_all_to_all_and_kernels_multiply_them(machine):
    command = [COMPILERS, "-m", "tests.model.sharded_moe_aot", machine]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["exchanges"] == 2 + 2 + 2 + 3  # there and back, forward and backward; as often for further windows
    assert found["kernels"] == 2 + 2 + 4 + 5  # likewise; what is computed again needs no last product
    assert not [shape for shape in found["gathered"] if shape.startswith("bf16[8,")]  # no expert but one's own
