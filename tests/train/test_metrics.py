import json

import numpy as np
import pytest

from train import metrics as metrics_module
from train.metrics import Meter, MetricWriter, Window, peak_flops, peak_memory_bytes


def test_a_window_weighs_steps_by_their_targets_and_leaves_out_what_never_occurred():
    window = Window()
    window.add({"loss": (6.0, 3.0), "loss/action": (0.0, 0.0), "load": (np.array([1.0, 3.0]), 1)})
    window.add({"loss": (10.0, 1.0), "loss/action": (0.0, 0.0), "load": (np.array([3.0, 1.0]), 1)})
    assert window.means() == {"loss": 4.0, "load": [2.0, 2.0]}
    assert window.means() == {}


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    fake = Clock()
    monkeypatch.setattr(metrics_module, "time", fake)
    monkeypatch.setattr(metrics_module, "peak_flops", lambda: (1000.0, "given"))
    return fake


def test_speed_leaves_out_the_first_step_and_pauses_and_counts_waiting(clock):
    meter = Meter({})
    clock.now += 50
    meter.step_finished(80, 1, 1)  # compiles
    for _ in range(2):
        with meter.waiting():
            clock.now += 1
        clock.now += 3
        meter.step_finished(100, 2000, 3000)
        with meter.paused():
            clock.now += 7
    expected = {"tokens_per_second": 25.0, "mfu": 0.5, "hfu": 0.75, "data_wait": 0.25}
    assert meter.window_rates() == expected
    assert meter.window_rates() == {}
    assert meter.total_rates() == expected
    assert (meter.totals["all_tokens"], meter.totals["wall_seconds"]) == (280, 65)


def test_totals_go_on_after_a_restart(clock):
    meter = Meter({"seconds": 10.0, "tokens": 100.0, "wall_seconds": 60.0, "all_tokens": 120.0})
    clock.now += 5
    meter.step_finished(20, 0, 0)
    clock.now += 10
    meter.step_finished(20, 0, 0)
    assert meter.totals["wall_seconds"] == 75
    assert meter.totals["all_tokens"] == 160
    assert meter.total_rates()["tokens_per_second"] == 6


def test_lines_after_the_step_that_a_run_goes_on_from_are_dropped_with_a_torn_one(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    for step in (1, 2, 3):
        writer.write(step, {"loss": float(step), "load": [0.5, 0.5], "event": "x"})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    writer = MetricWriter(tmp_path, 2)
    writer.write(3, {"loss": 30.0})
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_peak_of_a_known_device_is_looked_up_and_of_others_measured(monkeypatch):
    class Device:
        device_kind, platform = "NVIDIA H100 80GB HBM3", "gpu"

    monkeypatch.setattr(metrics_module.jax, "local_devices", lambda: [Device()] * 4)
    assert peak_flops() == (4 * 989e12, "data sheet, 4 x NVIDIA H100 80GB HBM3")
    monkeypatch.undo()
    measured = {"bfloat16": 2e9, "float32": 1e9}
    monkeypatch.setattr(metrics_module, "_matmul_flops", lambda dtype: measured[dtype.__name__])
    assert peak_flops() == (2e9, "measured matmul")


def test_memory_is_at_least_what_this_process_holds():
    block = np.ones(50_000_000, np.uint8)
    assert peak_memory_bytes() > block.nbytes
