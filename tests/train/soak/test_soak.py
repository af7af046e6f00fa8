"""The comparison of two runs, and what the command refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.train import tiny
from train.phases import run
from train.soak import __main__ as soak
from train.soak.compare import differences
from train.soak.faults import Fault
from train.soak.run import Injected, report


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same short run twice."""
    config = tiny.config(**{"phases/pretrain/steps": 4, "train/log_every": 1, "train/checkpoint_every": 2})
    config.train.phases = ("pretrain",)
    del config.phases["distil"]
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    for folder in folders:
        run(config, folder, build=tiny.build)
    return [folder / "pretrain" for folder in folders]


def test_two_runs_of_a_config_are_alike(runs):
    assert differences(*runs) == []


@pytest.mark.parametrize("item", ["params", "training"])
def test_one_bit_of_one_array_is_a_difference(runs, monkeypatch, item):
    from train.checkpoint import Checkpoint

    read = Checkpoint._read

    def changed(self, name):
        tree = read(self, name)
        if name == item and self.path.is_relative_to(runs[1]):
            leaves = tree["embed"] if item == "params" else tree["guard"]
            name = next(iter(leaves))
            content = bytearray(np.asarray(leaves[name]).tobytes())
            content[0] ^= 1
            leaves[name] = np.frombuffer(bytes(content), leaves[name].dtype).reshape(leaves[name].shape)
        return tree

    monkeypatch.setattr(Checkpoint, "_read", changed)
    found = differences(*runs)
    assert len(found) == 1
    assert found[0].startswith(f"{item}/")
    assert found[0].endswith("differs")


def test_a_lost_line_and_a_line_too_many_of_the_log_are_differences(runs, tmp_path):
    for name, change in (("lost", lambda lines: lines[1:]), ("twice", lambda lines: [lines[0], *lines])):
        copy = shutil.copytree(runs[1], tmp_path / name)
        log = copy / "metrics.jsonl"
        log.write_text("\n".join(change(log.read_text().splitlines())))
        assert any("the log's steps differ" in line for line in differences(runs[0], copy))


def test_a_report_tells_what_was_not_noticed_in_time_and_what_was_never_tried(runs):
    fault = Fault("kill", 0, 2)
    prompt, late, never = (Injected(fault, "kill rank 0", 2, noticed_after=seconds) for seconds in (1.0, 61.0, None))
    assert report(0, *runs, [prompt], 1, 60.0)["problems"] == []
    found = report(1, *runs, [prompt, late, never], 4, 60.0)["problems"]
    assert found == [
        "the run under faults ended with 1",
        "the run ended after 3 of 4 faults; raise config.train.steps",
        "fault 2 (kill rank 0) was noticed after 61.0 s",
        "fault 3 (kill rank 0) was noticed after None s",
    ]
    assert json.loads(json.dumps(report(0, *runs, [late], 1, 60.0)))["faults"][0]["fault"]["kind"] == "kill"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kinds=kill,flood"], "--kinds has 'flood'; allowed: kill, stop, term, disk, corrupt"),
        (["--processes=0"], "--processes is 0; it must be at least 1"),
        (["--faults=500"], "--faults is 500, the run has 360 steps for them (21 to 380 of 400)"),
        (["--config=configs/sft.py"], "leave one, whose result is compared"),
        (["--nothing"], "unrecognized arguments: --nothing"),
        (["--config.train.stpes=3"], "Did you mean config.train.steps?"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(tmp_path, arguments, message):
    with pytest.raises(SystemExit) as end:
        soak.main(["--workdir", str(tmp_path), *arguments])
    assert str(end.value).startswith("error: ")
    assert message in str(end.value)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_soak_is_not_overwritten(tmp_path):
    (tmp_path / "soaked").mkdir()
    with pytest.raises(SystemExit, match="soaked exists; remove it, or choose another --workdir"):
        soak.main(["--workdir", str(tmp_path)])
