"""The command from a config to files, on the CPU's own compiler in place of a device that is not there."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
import types
from typing import Any

import jax
import pytest

from sharding.plan import __main__ as command
from sharding.plan.machines import GIB, MACHINES
from sharding.plan.plan import Plan
from sharding.topology import KINDS, Topology
from tests.sharding.plan.two_layers import config as small

USED = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 120.50G of 95.74G hbm. Exceeded by 24.76G."


@pytest.fixture
def run(monkeypatch, tmp_path):
    """`main` with flags as given, on one device that is called a v5p; returns the folder it wrote to."""

    def value(name, given):
        monkeypatch.setattr(command, name, types.SimpleNamespace(value=given))

    monkeypatch.setattr(command, "_title", lambda: "small")

    def start(config=None, *, topology="v5p:1x1x1", memory=95 * GIB, out=None, sweep=False, schedule=False):
        machines = {"v5p": dataclasses.replace(MACHINES["v5p"], memory=memory)}
        device = Topology(topology or "", tuple(jax.devices()[:1]), KINDS[(topology or "v5p").partition(":")[0]], {})
        monkeypatch.setattr(command, "MACHINES", machines)
        monkeypatch.setattr(command, "topology", lambda name: device)
        for name, given in (
            ("_TOPOLOGY", topology),
            ("_PHASE", None),
            ("_OUT", out),
            ("_SWEEP", sweep),
            ("_SCHEDULE", schedule),
            ("_COMPILED", 1),
        ):
            value(name, given)
        command.main(config or small(), tmp_path)
        return tmp_path

    return start


def test_a_plan_is_a_table_a_record_and_a_picture(run, capsys):
    folder = run()
    plan = Plan.from_dict(json.loads((folder / "plan-v5p-1x1x1.json").read_text()))
    assert (plan.topology, plan.rows, plan.slots, plan.num_devices) == ("v5p:1x1x1", 8, 64, 1)
    assert plan.memory.arguments["optimiser"] == pytest.approx(2 * plan.parameters * 4, rel=1e-4)
    assert plan.memory.temporaries > 0
    assert plan.hardware_flops > plan.model_flops > 0
    assert plan.traffic == []
    assert (folder / "plan-v5p-1x1x1.png").is_file()
    assert "the device has" in capsys.readouterr().out


def test_a_step_that_does_not_fit_is_refused_with_what_to_try(run, tmp_path):
    with pytest.raises(
        ValueError, match=r"needs 0\.0 GiB of a device that has 0\.0; try .*models\.small\.remat = 'block'"
    ):
        run(memory=1e6, out=str(tmp_path / "small"))
    assert json.loads((tmp_path / "small.json").read_text())["fits"] is False


def test_a_sweep_ranks_mesh_shapes_and_says_where_none_is_left(run, capsys):
    run(sweep=True)
    assert "one device" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"no mesh shape of 1 devices .*batch_size to a multiple"):
        run(sweep=True, memory=1.0)


def test_a_missing_topology_is_asked_for(run):
    with pytest.raises(ValueError, match="--topology is not given; name a machine, as in --topology v5p:4x4x4"):
        run(topology=None)


def test_a_schedule_alone_is_refused_where_there_is_none(run):
    with pytest.raises(ValueError, match="reads what compilers for TPUs write down; leave it out for h200:1"):
        run(topology="h200:1", schedule=True)
    with pytest.raises(ValueError, match="--sweep compiles whole programs; leave out --schedule"):
        run(schedule=True, sweep=True)


def test_what_a_compiler_says_of_too_little_memory_is_understood():
    memory = command._exhausted(USED, {"parameters": 20 * GIB})
    assert memory is not None
    assert (memory.peak, memory.capacity) == (pytest.approx(120.5 * GIB), pytest.approx(95.74 * GIB))
    assert not memory.fits
    assert command._exhausted("INTERNAL: something else", {}) is None


@pytest.fixture
def long_rows():
    """Two layers with heads that TPU kernels take, on four devices."""
    config: Any = small(fsdp=2, context=2)
    config.models.small.update({"model_dim": 256, "dtype": "bfloat16"})
    config.models.small.global_attention.head_dim = 128
    config.phases.teach.pipeline.slots = 2048
    return config


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu")
def test_a_tpu_plan_has_kernels_and_a_ring_and_its_schedule_alone_says_as_much(tmp_path, long_rows):
    """Each in a process of its own, as users start them: of two devices any exchange is a ring."""
    file = tmp_path / "long_rows.py"
    file.write_text(
        f"from ml_collections import ConfigDict\n\nget_config = lambda: ConfigDict({long_rows.to_dict()})\n"
    )
    start = [sys.executable, "-m", "sharding.plan", "--config", str(file), "--topology", "v5p:2x2x1"]
    plans = []
    for number, option in enumerate(("--noschedule", "--schedule")):
        subprocess.run([*start, option, "--out", str(tmp_path / f"{number}")], check=True)
        plans.append(Plan.from_dict(json.loads((tmp_path / f"{number}.json").read_text())))
    whole, early = plans
    assert whole.kernels
    assert whole.unknown_loops == 0
    kinds = {(line.kind, line.pattern, line.axes) for line in whole.traffic}
    assert {("collective-permute", "ring", "context"), ("all-gather", "", "fsdp")} <= kinds
    assert (early.traffic, early.seconds, early.kernels) == (whole.traffic, whole.seconds, whole.kernels)
    assert 0 <= whole.memory.peak - early.memory.peak < GIB / 8  # the code, and what it sets aside
