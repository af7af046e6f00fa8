"""What evaluations of one set of weights and of robots alone come to, side by side."""

import json

import pytest

from benchmarks import robots


def evaluated(folder, suite, wins, conditions=("normal",), name=None):
    """A summary as `python -m eval` writes it: `wins` of 20 episodes for each task."""
    rows = [
        {"task": task, "arm": "a", "condition": condition, "episodes": 20, "successes": won, "low": 0.1, "high": 0.9}
        for task, won in wins.items()
        for condition in conditions
    ]
    path = folder / "evaluations" / (name or suite) / "summary.json"
    path.parent.mkdir(parents=True)
    settings = {"execute": 4, "wording": "test", "image_size": 96}
    path.write_text(json.dumps({"success": rows, "settings": settings, "checkpoint": {"phase": "act", "step": 7}}))


def test_a_record_has_every_robot_together_and_alone(tmp_path, capsys):
    evaluated(tmp_path, "metaworld", {"reach-v3": 20, "push-v3": 10}, ("normal", "blank_image"))
    evaluated(tmp_path, "metaworld", {"reach-v3": 3}, name="metaworld_other")
    evaluated(tmp_path, "fetch", {"reach": 18})
    evaluated(tmp_path / "alone" / "fetch", "fetch", {"reach": 19})
    robots.main(["--run", str(tmp_path), "--out", str(tmp_path / "out.json")])
    suites = json.loads((tmp_path / "out.json").read_text())["suites"]
    assert {suite: list(found) for suite, found in suites.items()} == {
        "metaworld": ["together"],
        "fetch": ["together", "alone"],
    }
    overall = suites["metaworld"]["together"][0]["overall"]
    assert (overall["successes"], overall["episodes"], overall["rate"]) == (30, 40, 0.75)  # no controls
    assert overall["low"] < 0.75 < overall["high"]
    assert suites["metaworld"]["together"][1]["overall"]["successes"] == 3
    assert suites["fetch"]["alone"][0]["tasks"][0]["successes"] == 19
    assert "fetch      alone     test   reach" in capsys.readouterr().out


def test_nothing_evaluated_is_said_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"no summary\.json"):
        robots.main(["--run", str(tmp_path), "--out", str(tmp_path / "out.json")])
    assert not (tmp_path / "out.json").exists()
