"""What `python -m eval --config` leaves behind for the report; a made-up policy acts."""

from __future__ import annotations

import json

import pytest

from eval.config import EvaluateConfig
from eval.journal import read_records
from eval.judge import judge
from eval.report import build_page, load_run
from tests.eval.jobs import seer


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A working folder with one finished phase."""
    monkeypatch.setattr("eval.jobs.job.Policy", seer.Seer)
    monkeypatch.setattr("eval.judge.Checkpoint.open", lambda path: seer.checkpoint(tmp_path))
    figures = {"seconds": 20.0, "tokens": 4000, "mfu": 0.3, "peak_memory_bytes": 2**30}
    (tmp_path / "act").mkdir()
    (tmp_path / "act" / "done.json").write_text(json.dumps(figures))
    return tmp_path


def test_success_films_and_speed_are_there_for_the_report(run):
    section = seer.job(run, conditions=("normal", "blank_image"), episodes=3, films=2).config
    summary = judge(EvaluateConfig(tabletop=section), {"seed": 5}, run)
    assert json.loads((run / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert {(row["arm"], row["condition"], row["episodes"]) for row in summary["success"]} == {
        (arm, condition, 3) for arm in seer.ARMS for condition in section.conditions
    }
    assert summary["tokens_per_second"] == 200
    found = load_run(run)
    assert len(found.episodes) == 4
    assert {film.arm for film in found.episodes} == set(seer.ARMS)
    assert found.config == {"seed": 5}
    assert "reach" in build_page(found)


def test_it_begins_anew_each_time(run):
    section = seer.job(run, episodes=1, films=1).config
    for _ in range(2):
        judge(EvaluateConfig(tabletop=section), {}, run)
    assert len(read_records(run / "evaluations/tabletop/records-0.jsonl")) == 2
    assert len(list((run / "episodes").glob("*.npz"))) == 2


def test_a_run_without_a_finished_phase_is_refused(run):
    (run / "act" / "done.json").unlink()
    with pytest.raises(ValueError, match="has no finished phase; run `python -m train` with the same config first"):
        judge(EvaluateConfig(tabletop=seer.job(run).config), {}, run)
