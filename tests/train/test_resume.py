"""Real processes are killed and restarted; the result must not show it."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.train import tiny
from train.checkpoint import Checkpoint
from train.phases import run

ROOT = Path(__file__).parents[2]
STEPS = 40

# `python -m train` with the doubles in place of the model and the data; slow steps leave time to be killed in.
PROGRAM = """
import dataclasses, time
import train.__main__ as program
from configs import command
from tests.train import tiny
from train.sections import completed

def build(config, name, teacher):
    phase = tiny.build(config, name, teacher)
    return dataclasses.replace(phase, flops=lambda batch: (time.sleep(0.05), (1.0, 1.0))[1])

program.build_phase, program.check, program.preflight = build, lambda config: None, lambda *_: ""
command.run(program.main, completed)
"""


class Training:
    """A training process in `workdir`."""

    def __init__(self, workdir, *arguments):
        self.workdir = workdir
        config = ["--config", "tests/train/tiny.py", "--workdir", str(workdir)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *config, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_until(self, condition):
        deadline = time.monotonic() + 120
        while not condition():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline, "the process came nowhere"
            time.sleep(0.001)

    def steps(self):
        log = self.workdir / "pretrain" / "metrics.jsonl"
        return log.read_text().count("\n") if log.exists() else 0

    def saving(self):
        folder = self.workdir / "pretrain" / "checkpoints"
        return folder.exists() and any("tmp" in path.name for path in folder.iterdir())

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def finish(self):
        output = self.process.communicate(timeout=120)[0]
        return self.process.returncode, output


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    run(tiny.get_config(), workdir, build=tiny.build)
    return Checkpoint.open(workdir / "pretrain")


def assert_same_result(workdir, expected):
    result = Checkpoint.open(workdir / "pretrain")
    assert result.step == expected.step == STEPS
    for item in ("params", "ema", "buffers"):
        jax.tree.map(np.testing.assert_array_equal, getattr(result, item), getattr(expected, item))
    assert result.meta["progress"]["totals"]["all_tokens"] == expected.meta["progress"]["totals"]["all_tokens"]
    assert result.meta["next_row"] == expected.meta["next_row"]


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_bit_identical_to_an_uninterrupted_one(tmp_path, uninterrupted):
    seed = random.SystemRandom().randrange(1000)
    print(f"seed {seed}")  # shown if the test fails
    chosen = random.Random(seed)
    for earliest in (0, 12, 24):
        training, moment = Training(tmp_path), earliest + chosen.randrange(2, 12)
        training.wait_until(lambda: training.steps() >= moment)  # noqa: B023
        time.sleep(chosen.uniform(0, 0.05))
        training.kill()
    code, output = Training(tmp_path).finish()
    assert code == 0, output
    assert_same_result(tmp_path, uninterrupted)


@pytest.mark.slow
def test_a_run_killed_while_it_saves_ends_bit_identical_to_an_uninterrupted_one(tmp_path, uninterrupted):
    for _ in range(5):
        training = Training(tmp_path)
        training.wait_until(lambda: training.saving() and training.steps() >= 4)  # noqa: B023
        training.kill()
        if training.saving():
            break
    assert training.saving(), "every kill came after the save"
    code, output = Training(tmp_path).finish()
    assert code == 0, output
    assert_same_result(tmp_path, uninterrupted)
    assert not training.saving()


def test_sigterm_saves_and_exits_with_75_and_the_same_command_goes_on(tmp_path, uninterrupted):
    training = Training(tmp_path)
    training.wait_until(lambda: training.steps() >= 4)
    training.process.send_signal(signal.SIGTERM)
    code, output = training.finish()
    assert code == 75, output
    stopped = Checkpoint.open(tmp_path / "pretrain")
    assert f"asked to stop after step {stopped.step} of {STEPS}; its checkpoint is written" in output
    run(tiny.get_config(), tmp_path, build=tiny.build)
    assert_same_result(tmp_path, uninterrupted)


def test_a_config_that_cannot_work_exits_with_1_and_one_line(tmp_path):
    code, output = Training(tmp_path, "--config.phases.pretrain.steps=0").finish()
    assert code == 1
    assert output.splitlines()[-1] == "error: config.phases.pretrain.steps is 0; it must be at least 1"
