"""The supervisor over doubles of processes: what it does with every way in which they can end."""

from __future__ import annotations

import itertools
import json
import signal
from types import SimpleNamespace

import pytest

from train.launch import supervise as module
from train.launch.supervise import Reached, RestartPolicy, Supervisor, reached, supervise
from train.ranks import Board, Note

KILLED, ABORTED = -signal.SIGKILL, -signal.SIGABRT


class Ranks:
    """Two processes whose exit codes a test sets; None = they run."""

    count = 2

    def __init__(self):
        self.starts, self.codes, self.signals = 0, [None, None], []

    def start(self):
        self.starts, self.codes = self.starts + 1, [None, None]

    def poll(self):
        return list(self.codes)

    def terminate(self):
        self.signals.append("term")

    def kill(self):
        self.signals.append("kill")
        self.codes = [KILLED if code is None else code for code in self.codes]


class Clock:
    """Time that a test moves."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: 1e9 + self.now, sleep=lambda seconds: None)
        monkeypatch.setattr(module, "time", clock)


@pytest.fixture
def run(tmp_path, monkeypatch):
    class Run:
        clock, ranks, said, workdir = Clock(monkeypatch), Ranks(), [], tmp_path

        def supervisor(self, **policy):
            return Supervisor(self.ranks, tmp_path, RestartPolicy(**policy), self.said.append)

        def checkpoint(self, step):
            (tmp_path / "phase" / "checkpoints" / str(step)).mkdir(parents=True)

        def note(self, rank, tick=1, doing="the data"):
            note = Note(rank, "node", 100 + rank, 7, doing, 17, 40, 3.0, 45.0, tick)
            Board(tmp_path).write(note)

    return Run()


def test_a_run_whose_processes_end_well_is_done(run):
    supervisor = run.supervisor()
    assert supervisor.poll() is None
    run.ranks.codes = [0, None]
    assert supervisor.poll() is None
    run.ranks.codes = [0, 0]
    assert supervisor.poll() == 0
    assert run.ranks.starts == 1
    assert run.said == []


def test_a_killed_process_is_named_with_what_it_did_and_all_start_again(run):
    supervisor = run.supervisor()
    run.checkpoint(15)
    run.note(1)
    run.ranks.codes = [ABORTED, KILLED]  # the second was the cause: the first is how JAX ends those that are left
    assert supervisor.poll() is None
    assert run.said == [
        "rank 1 ended by SIGKILL; it was at the data of step 17 for 3 s (node, process 101)",
        "rank 0 ended by SIGABRT, rank 1 ended by SIGKILL; all start again in 1 s from step 15",
    ]
    run.clock.now = 2
    assert supervisor.poll() is None
    assert run.ranks.starts == 2


def test_the_others_are_asked_to_leave_and_killed_only_after_the_grace(run):
    supervisor = run.supervisor(grace_seconds=15)
    run.note(0)
    run.ranks.codes = [None, KILLED]
    supervisor.poll()
    assert "rank 1 ended by SIGKILL" in Board(run.workdir).ended(7).why
    run.clock.now = 14
    supervisor.poll()
    assert run.ranks.signals == []
    run.clock.now = 16
    supervisor.poll()
    assert run.ranks.signals == ["kill"]


def test_restarts_wait_twice_as_long_each_time_and_stop_without_a_new_checkpoint(run):
    supervisor, waits = run.supervisor(restarts=3, wait_seconds=1), []
    for _ in range(3):
        run.ranks.codes = [75, 75]
        before, starts = run.clock.now, run.ranks.starts
        while run.ranks.starts == starts:
            assert supervisor.poll() is None
            run.clock.now += 0.5
        waits.append(run.clock.now - before)
    assert waits == [pytest.approx(wait, abs=0.6) for wait in (1, 2, 4)]
    run.ranks.codes = [75, 75]
    assert supervisor.poll() == 1
    assert "given up after 3 restarts without a new checkpoint" in run.said[-1]


def test_a_new_checkpoint_makes_the_count_begin_anew(run):
    supervisor = run.supervisor(restarts=1, wait_seconds=0)
    for step in range(1, 6):
        run.checkpoint(step)
        run.ranks.codes = [75, 75]
        assert supervisor.poll() is None
        supervisor.poll()
    assert run.ranks.starts == 6
    lines = [json.loads(line) for line in (run.workdir / "restarts.jsonl").read_text().splitlines()]
    assert [(line["start"], line["codes"]) for line in lines] == [(i, [75, 75]) for i in range(1, 6)]


@pytest.mark.parametrize("codes", [[1, 1], [1, 75], [2, 0]])
def test_an_error_that_would_come_again_is_final(run, codes):
    supervisor = run.supervisor()
    run.ranks.codes = codes
    assert supervisor.poll() == 1
    assert "not started again" in run.said[-1]


def test_an_error_is_final_too_where_the_others_had_to_be_killed(run):
    supervisor = run.supervisor()
    run.ranks.codes = [1, None]
    supervisor.poll()
    run.clock.now = 60
    supervisor.poll()
    assert run.ranks.codes == [1, KILLED]
    assert supervisor.poll() == 1


def test_an_error_beside_a_killed_process_is_its_consequence(run):
    supervisor = run.supervisor()
    run.ranks.codes = [1, KILLED]
    assert supervisor.poll() is None
    run.clock.now = 5
    supervisor.poll()
    assert run.ranks.starts == 2


def test_a_process_whose_notes_stop_is_taken_for_stopped(run):
    supervisor = run.supervisor(grace_seconds=1)
    for second in range(0, 60, 2):
        run.clock.now = second
        run.note(0, tick=second)
        run.note(1, tick=min(second, 10))
        supervisor.poll()
    assert run.said[0].startswith("rank 1 does not answer since 46 s; it was at the data of step 17")
    assert run.ranks.signals[0] == "kill"


def test_a_stopped_process_is_named_where_jax_has_aborted_the_others_first(run):
    supervisor = run.supervisor()
    for second in range(0, 24, 2):
        run.clock.now = second
        run.note(0, tick=second)
        run.note(1, tick=min(second, 10))
        supervisor.poll()
    run.ranks.codes = [ABORTED, None]
    supervisor.poll()
    assert run.said[0].startswith("rank 1 does not answer since 12 s; it was at the data of step 17")
    assert "rank 0 ended by SIGABRT" in run.said[0]


def test_a_process_that_ends_is_given_time_though_it_writes_no_more_notes(run):
    supervisor = run.supervisor()
    for rank in range(2):
        run.note(rank, doing="the end")
    for second in (0, 100, 599):
        run.clock.now = second
        assert supervisor.poll() is None
    assert run.said == []
    run.clock.now = 602
    supervisor.poll()
    assert run.said[0].startswith("rank 0 does not answer since 602 s")


def test_a_request_to_stop_is_passed_on_and_ends_with_75(run):
    supervisor = run.supervisor()
    supervisor.stop()
    assert supervisor.poll() is None
    assert run.ranks.signals == ["term"]
    run.ranks.codes = [75, 75]
    assert supervisor.poll() == 75
    assert run.ranks.starts == 1


def test_sigterm_to_the_supervisor_stops_the_run_and_the_old_handlers_come_back(run, monkeypatch):
    before, polls = signal.getsignal(signal.SIGTERM), itertools.count()

    def poll():
        if next(polls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return [75, 75] if run.ranks.signals else [None, None]

    monkeypatch.setattr(run.ranks, "poll", poll)
    assert supervise(run.ranks, run.workdir, say=run.said.append) == 75
    assert signal.getsignal(signal.SIGTERM) is before


def test_how_far_a_run_is_counts_finished_phases_before_steps(run):
    assert reached(run.workdir) == Reached(0, 0)
    run.checkpoint(30)
    run.checkpoint("40.broken")
    assert reached(run.workdir) == Reached(0, 30)
    (run.workdir / "phase" / "done.json").write_text("{}")
    assert reached(run.workdir) == Reached(1, 0) > Reached(0, 30)


@pytest.mark.parametrize("policy", [{"restarts": -1}, {"wait_seconds": 90}, {"grace_seconds": 0}])
def test_a_policy_that_cannot_work_is_refused(policy):
    with pytest.raises(ValueError, match=f"^{next(iter(policy))} is "):
        RestartPolicy(**policy)
