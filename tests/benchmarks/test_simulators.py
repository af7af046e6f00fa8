"""The measurement of simulators, on the one that needs no package."""

import json
import sys

from benchmarks import simulators


def test_every_task_of_a_suite_is_measured_and_written(tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["simulators", "--suites", "tabletop", "--episodes", "1", "--out", str(out)])
    simulators.main()
    results = json.loads(out.read_text())
    assert len(results["tasks"]) == 15
    figures = results["tasks"]["tabletop/arm6/reach"]
    assert figures["successes"] == figures["episodes"] == 1
    assert 1 <= figures["median_steps"] <= figures["max_steps"] <= 50
    assert figures["steps_per_cpu_second"] > 0
    assert figures["frames_per_cpu_second"] > 0
    assert results["machine"]["mujoco"]
