"""Which commands a study runs, and what it makes of what comes out; training itself is stood in for."""

from __future__ import annotations

import json
import types

import pytest
from PIL import Image

from configs.command import read
from eval import few_shot
from eval.config import completed
from eval.few_shot import Study, shown, study
from eval.jobs.episodes import plan

CONFIG = "configs/few_shot.py"
SUCCESS = {("checkpoint", 4): 5, ("checkpoint", 8): 8, ("scratch", 4): 0, ("scratch", 8): 3}  # of 8 episodes


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Commands instead of processes, and jobs whose outcome is written above."""
    commands: list[list[str]] = []

    class MadeUpJob:
        def __init__(self, suite, section, checkpoint, out):
            count, start = out.parent.parent.name, out.parent.name
            solved = SUCCESS[start, int(count)]
            pairs = [(task, arm) for task in section.tasks for arm in section.arms]
            episodes = plan(pairs, section.conditions, section.episodes)
            self._records = {e.id: {"id": e.id, "success": i < solved} for i, e in enumerate(episodes)}

        def execute(self):
            return True

        def records(self):
            return self._records

    def stand_in(module, *arguments):
        commands.append([module, *arguments])
        if module == "eval.record":
            data = few_shot.Path(arguments[1])
            data.mkdir(parents=True)
            (data / "instructions.txt").touch()

    monkeypatch.setattr(few_shot, "_python", stand_in)
    monkeypatch.setattr(few_shot, "Job", MadeUpJob)
    monkeypatch.setattr(few_shot.Checkpoint, "open", lambda path: None)
    return commands


def settings(folder, counts=(4, 8)) -> Study:
    checkpoint = types.SimpleNamespace(path=folder / "base" / "7", vocabulary_bytes=b"pieces")
    return Study(CONFIG, checkpoint, folder / "study", counts, 4, ("--config.train.steps=3",))


def test_each_count_is_recorded_once_and_learned_from_twice(ran, tmp_path):
    study(settings(tmp_path), ["new_task"])
    recordings = [command for command in ran if command[0] == "eval.record"]
    assert [command[command.index("--episodes") + 1] for command in recordings] == ["2", "4"]  # of each of two arms
    assert all(command[3:8] == ["--task", "lift", "--arm", "arm5", "arm6"] for command in recordings)
    trainings = [command for command in ran if command[0] == "train"]
    assert len(trainings) == 4
    for command in trainings:
        config = read(command[2], command[5:], completed)  # each option is one of the config
        assert config.train.steps == 3
        scratch = command[2].endswith("_scratch")
        assert config.phases.learn.init == ("scratch" if scratch else f"path:{tmp_path}/base/7")
        data = few_shot.Path(command[4]).parent / "data"
        assert config.sources.arm5_chunks.root == config.sources.arm5_tokens.root == str(data / "arm5")
        assert few_shot.Path(config.vocabulary.path).read_bytes() == b"pieces"
    ran.clear()
    study(settings(tmp_path), ["new_task"])
    assert not [command for command in ran if command[0] == "eval.record"]


def test_rows_have_rates_and_pairs_and_are_drawn(ran, tmp_path):
    rows = study(settings(tmp_path), ["new_arm", "new_task"])
    assert rows == json.loads((tmp_path / "study/few_shot.json").read_text())
    found = {(row["case"], row["start"], row["demonstrations"]): row for row in rows}
    assert {key[1:]: row["successes"] for key, row in found.items() if key[0] == "new_arm"} == SUCCESS
    over = found["new_arm", "checkpoint", 4]["over_scratch"]
    assert (over["pairs"], over["difference"], over["only_first"]) == (8, 5 / 8, 5)
    assert "+62.5 points over scratch (p = 0.062)" in shown(found["new_arm", "checkpoint", 4])
    picture = Image.open(tmp_path / "study/few_shot.png")
    assert picture.width > 2 * picture.height  # two panels


@pytest.mark.parametrize(
    ("case", "counts", "message"),
    [
        ("new_arm", (5,), "--counts has 5; case 'new_arm' has 2 pairs of task and arm, give multiples of that"),
        ("old_arm", (4,), "has no variant 'old_arm'; choose of new_arm, new_arm_scratch, new_task"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_anything_runs(ran, tmp_path, case, counts, message):
    with pytest.raises(ValueError, match=message):
        study(settings(tmp_path, counts), ["new_task", case] if case == "old_arm" else [case])
    assert not ran
