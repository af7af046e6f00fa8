import json

import pytest

from tests.train import tiny
from train import events
from train.events import Events
from train.goodput.account import account
from train.phases import run


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(events, "_mark", self.now)
        for name in ("time", "perf_counter"):
            monkeypatch.setattr(events.time, name, lambda: self.now)

    def passes(self, seconds):
        self.now += seconds


def lines(folder):
    text = (folder / "events" / "0.jsonl").read_text().splitlines()
    return [json.loads(line) for line in text if line]


def test_lines_tell_of_all_the_time_without_gaps(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    with Events(tmp_path) as told:
        clock.passes(3)
        told.begin()
        clock.passes(2)
        told.write("state", step=6)
        for step in (7, 8):
            with told.data(lambda: step == 8):  # noqa: B023 - at once
                clock.passes(0.5)
            clock.passes(1)
            with told.blocked():
                clock.passes(0.25)
            told.stepped(step)
        with told.of("checkpoint", 8):
            clock.passes(4)
        clock.passes(1)
    shown = [{k: v for k, v in line.items() if k not in ("time", "pid", "processes")} for line in lines(tmp_path)]
    assert shown == [
        {"kind": "start", "seconds": 3},
        {"kind": "state", "seconds": 2, "step": 6},
        {"kind": "steps", "seconds": 3.5, "first": 7, "last": 8, "data": 0.5, "blocked": 0.5},
        {"kind": "checkpoint", "seconds": 4, "step": 8},
        {"kind": "end", "seconds": 1},
    ]
    assert [line["time"] for line in lines(tmp_path)] == [103, 105, 108.5, 112.5, 113.5]


def test_an_error_is_named_at_the_end(tmp_path):
    with pytest.raises(RuntimeError), Events(tmp_path):
        raise RuntimeError("no more")
    assert lines(tmp_path)[-1]["error"] == "RuntimeError: no more"


def test_files_are_only_appended_to_and_a_cut_line_spoils_no_other(tmp_path):
    with Events(tmp_path) as told:
        told.begin()
    path = tmp_path / "events" / "0.jsonl"
    path.write_text(path.read_text()[:-10])
    with Events(tmp_path) as told:
        told.begin()
    whole = [line for line in path.read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["kind"] for line in whole] == ["start", "start", "end"]


def test_a_real_run_is_accounted_for_step_by_step(tmp_path):
    config = tiny.config(**{"train/steps": 10, "train/checkpoint_every": 4})
    config.train.phases = ("pretrain",)
    del config.phases["distil"]
    run(config, tmp_path, build=tiny.build)
    told = lines(tmp_path / "pretrain")
    kinds = [line["kind"] for line in told]
    assert (kinds[:3], kinds[-1]) == (["start", "state", "compile"], "end")
    assert [(line["first"], line["last"]) for line in told if line["kind"] == "steps"] == [
        (1, 4),
        (5, 5),
        (6, 8),
        (9, 10),
    ]
    assert {line["step"] for line in told if line["kind"] == "checkpoint"} == {4, 8, 10}
    found = account(tmp_path / "pretrain")
    assert found.total == pytest.approx(told[-1]["time"] - (told[0]["time"] - told[0]["seconds"]), abs=1e-2)
    assert found.seconds["lost work"] == found.seconds["restart"] == 0
