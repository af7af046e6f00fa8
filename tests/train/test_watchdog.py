"""Processes that hang in one way or another, and are watched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from train.ranks import Board
from train.watchdog import Unwatched, Watchdog

ROOT = Path(__file__).parents[2]

# What a loop does, with a hang on purpose; seconds are short so that nobody waits.
PROGRAM = """
import sys, time
from pathlib import Path
from train import watchdog
from train.watchdog import Watchdog

watchdog.POLL, watchdog.SILENCE = 0.05, 0.2

def hang():
    while True:
        time.sleep(0.01)

with Watchdog(Path(sys.argv[1]), {seconds}, 1000.0, lambda error: 1) as watch:
    {body}
print("ended well")
"""


def run(folder, body, seconds="0.5"):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body, seconds=seconds), str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_hang_ends_with_75_and_says_where_with_the_stacks(tmp_path):
    code, output = run(tmp_path, "watch.at('the data', 17); hang()")
    assert code == 75, output
    assert "rank 0 is at the data of step 17 for more than 0 s (config.train.watchdog_seconds), waiting for" in output
    assert "in hang" in output
    assert "in hang" in Board(tmp_path).stacks(0).read_text()


def test_pauses_and_steps_no_slower_than_those_before_may_last(tmp_path):
    pause = "watch.at('the evaluation', 1, pause=True); time.sleep(1.5)"
    code, output = run(tmp_path, f"{pause}; watch._longest = 100.0; watch.at('the data', 2); time.sleep(1.5)")
    assert (code, "ended well" in output) == (0, True), output


def test_without_a_limit_everything_may_last(tmp_path):
    assert run(tmp_path, "watch.at('the data', 1); time.sleep(1.5)", seconds="None")[0] == 0


def test_a_process_that_is_asked_to_end_does_so_with_the_code_it_is_given(tmp_path):
    body = """
    from train.ranks import End
    watch._board.end(End(watch._attempt - 1, "somebody else's", 3))
    time.sleep(0.5)
    watch._board.end(End(watch._attempt, "rank 5 is gone", 75))
    hang()"""
    code, output = run(tmp_path, body, seconds="100.0")
    assert code == 75, output
    assert "rank 0 gives up: rank 5 is gone" in output


def test_an_abort_leaves_a_stack(tmp_path):
    code, output = run(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGABRT)")
    assert code == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in output


def test_alone_an_error_is_left_to_the_program(tmp_path):
    with pytest.raises(OSError, match="full"), Watchdog(tmp_path, 45.0, 1800.0, lambda error: 75):
        raise OSError("full")
    assert Board(tmp_path).notes()[0].pid == os.getpid()


def test_the_time_of_steps_is_remembered_but_not_that_of_pauses(tmp_path, monkeypatch):
    now = iter([0.0, 100.0, 103.0, 1000.0, 1002.0])
    watch = Watchdog(tmp_path, 5.0, 1800.0, lambda error: 1)
    monkeypatch.setattr("train.watchdog.time", SimpleNamespace(monotonic=lambda: next(now)))
    watch.at("the data", 1)  # 0: ends the start, a pause
    watch.at("the evaluation", 1, pause=True)  # 100 s of a step
    watch.at("the data", 2)  # 3 s of a pause
    watch.at("the data", 3)  # 897 s of a step
    note = watch._note()
    assert (note.doing, note.step, note.stage, note.seconds) == ("the data", 3, 4, 2.0)
    assert note.limit == 5 * 897
    Unwatched().at("anything", 1)
