"""Runs of several real processes are broken and started again, also with other numbers of processes."""

from __future__ import annotations

import json
import sys
import time

import pytest

from train.launch.local import Processes
from train.launch.supervise import RestartPolicy, Supervisor
from train.ranks import Board
from train.soak import __main__ as soak
from train.soak.compare import differences

STEPS = 40

# `python -m train` in which rank 1 hangs in Python before step 12, once.
HANGS = """
import dataclasses, pathlib, time
import jax
import train.__main__ as program
from configs import command
from train.build import build_phase
from train.sections import completed

calls, hung = [], pathlib.Path({flag!r})

def hang_in_python():
    hung.touch()
    while True:
        time.sleep(0.1)

def build(config, name, teacher):
    phase = build_phase(config, name, teacher)
    def flops(batch):
        calls.append(batch)
        if jax.process_index() == 1 and len(calls) == 12 and not hung.exists():
            hang_in_python()
        return phase.flops(batch)
    return dataclasses.replace(phase, flops=flops)

program.build_phase = build
command.run(program.main, completed)
"""


def arguments(folder, workdir, **overrides):
    """Of `configs/soak.py`, kept short, with its files below `folder`."""
    fields = {"vocabulary.path": f"{folder}/vocabulary.model", "phases.sums.eval_every": 20}
    fields |= {"train.steps": STEPS, "train.log_every": 1}  # so that every step can be compared
    given = [f"--config.{name}={value}" for name, value in (fields | overrides).items()]
    return ["--config", "configs/soak.py", *given, f"--workdir={workdir}"]


def train(folder, workdir, count, devices, program=("-m", "train"), until=None, **overrides):
    """Exit codes; `until` a step has begun, when all are asked to stop."""
    command = [sys.executable, *program, *arguments(folder, workdir, **overrides)]
    with Processes(command, count, workdir / "logs", devices=devices) as ranks:
        ranks.start()
        board = Board(workdir)
        while until is not None and ranks.running():
            if any(note.step >= until for note in board.notes().values()):
                ranks.terminate()
                break
            time.sleep(0.05)
        return ranks.wait(900)


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "sums" / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("surviving")


@pytest.fixture(scope="module")
def uninterrupted(folder):
    assert train(folder, folder / "uninterrupted", 2, 1) == [0, 0], (
        folder / "uninterrupted/logs/rank_0.log"
    ).read_text()
    return folder / "uninterrupted"


@pytest.mark.slow
def test_a_process_that_hangs_in_python_is_named_and_the_run_goes_on_bit_identically(folder, uninterrupted):
    workdir, said = folder / "hangs", []
    program = ("-c", HANGS.format(flag=str(folder / "hung")))
    command = [sys.executable, *program, *arguments(folder, workdir)]
    with Processes(command, 2, workdir / "logs", devices=1) as ranks:
        supervisor = Supervisor(ranks, workdir, RestartPolicy(wait_seconds=0), said.append)
        while (code := supervisor.poll()) is None:
            time.sleep(0.1)
    logs = [(workdir / "logs" / f"rank_{rank}.log").read_text() for rank in range(2)]
    assert (code, supervisor.starts) == (0, 2), "\n".join([*said, *logs])
    for log in logs:
        assert "(config.train.watchdog_seconds), waiting for rank 1 (" in log
        assert "at the computation of step 12 for" in log
    assert "in hang_in_python" in logs[1]
    assert differences(uninterrupted / "sums", workdir / "sums") == []


@pytest.mark.slow
def test_a_run_goes_on_with_twice_and_with_half_the_processes(folder, uninterrupted):
    workdir = folder / "elastic"
    for count, devices, until in ((2, 1, 12), (4, 1, 24), (1, 2, None)):
        codes = train(folder, workdir, count, devices, until=until)
        assert codes == [75 if until else 0] * count, (workdir / "logs/rank_0.log").read_text()
    assert losses(workdir) == pytest.approx(losses(uninterrupted), rel=1e-6)  # of all steps: none twice, none lost


@pytest.mark.slow
def test_faults_of_every_kind_change_nothing(folder, capsys):
    out, workdir = folder / "report.json", folder / "soak"
    overrides = [argument for argument in arguments(folder, workdir) if argument.startswith("--config.")]
    command = ["--workdir", str(workdir), "--out", str(out), "--faults=5", "--config.train.steps=60", *overrides]
    with pytest.raises(SystemExit) as end:
        soak.main([argument for argument in command if argument != f"--config.train.steps={STEPS}"])
    told = json.loads(out.read_text())
    assert end.value.code == 0, capsys.readouterr().out
    assert (told["identical"], told["starts"], told["problems"]) == (True, 6, [])
    assert sorted(fault["fault"]["kind"] for fault in told["faults"]) == ["corrupt", "disk", "kill", "stop", "term"]
    assert "is broken, kept as" in (workdir / "soaked/logs/rank_0.log").read_text()


@pytest.mark.slow
def test_processes_that_hold_the_same_rows_read_the_same_rows(folder, uninterrupted):
    workdir = folder / "tensor"
    axes = {"mesh.data": 1, "mesh.tensor": 2, "train.steps": 10}
    assert train(folder, workdir, 2, 1, **axes) == [0, 0], (workdir / "logs/rank_0.log").read_text()
    alone = folder / "alone"
    assert train(folder, alone, 1, 1, **{"train.steps": 10}) == [0]
    assert losses(workdir) == pytest.approx(losses(alone), rel=1e-5)
