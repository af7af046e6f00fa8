import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from tests.train import tiny
from train import loop, ranks
from train.checkpoint import Checkpoint, Checkpointer
from train.config import TrainConfig
from train.metrics import Meter, MetricWriter
from train.optimizer import OptimizerConfig, build_optimizer
from train.progress import PhaseProgress
from train.step import TrainState, make_step


class Run:
    """A loop over the doubles, with hooks where a test needs one."""

    def __init__(self, folder, *, steps=6, bad=(), **settings):
        params, buffers = tiny.init()
        optimizer = build_optimizer(OptimizerConfig(learning_rate=0.01), steps, params, tiny.AXES)
        self.state = TrainState.create(params, buffers, optimizer, ema=False)
        self.step_fn = make_step(tiny.loss_fn, optimizer, seed=0)
        self.folder, self.steps, self.pipeline = folder, steps, tiny.Rows(4, bad=bad)
        self.settings = TrainConfig(phases=("p",), **{"checkpoint_every": 100, "log_every": 2, **settings})
        self.assets = tiny.build(tiny.config(), "pretrain").assets
        self.console = Console(record=True, width=500)
        self.flops = lambda batch: (1.0, 2.0)
        self.evaluate = None

    def go(self, eval_every=0):
        meter, writer = Meter({}), MetricWriter(self.folder, 0)
        checkpointer = Checkpointer(self.folder / "checkpoints", self.assets, keep=10)
        self.progress = PhaseProgress("p", 0, self.steps, self.console)
        self.recorder = loop.Recorder(self.settings, self.steps, writer, meter, self.progress)
        try:
            with loop.Preemption() as preemption:
                return loop.train(
                    self.state,
                    self.step_fn,
                    self.pipeline,
                    start=0,
                    steps=self.steps,
                    next_row=0,
                    settings=self.settings,
                    checkpointer=checkpointer,
                    recorder=self.recorder,
                    meter=meter,
                    place=lambda batch: jax.tree.map(jnp.asarray, batch),
                    flops=lambda batch: self.flops(batch),
                    evaluate=self.evaluate,
                    eval_every=eval_every,
                    preemption=preemption,
                )
        finally:
            writer.close()

    def lines(self):
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("train.metrics.peak_flops", lambda: (1e9, "given"))


def test_metrics_are_read_only_after_the_next_step_was_dispatched(tmp_path, monkeypatch):
    run, events = Run(tmp_path, steps=4), []
    dispatch, read = run.step_fn, jax.device_get
    run.step_fn = lambda state, batch: (events.append("dispatch"), dispatch(state, batch))[1]
    monkeypatch.setattr(loop.jax, "device_get", lambda x: (events.append("read"), read(x))[1])
    run.go()
    assert events == ["dispatch", "dispatch", "read", "dispatch", "read", "dispatch", "read", "read"]


def test_a_window_of_the_log_holds_exact_means_and_all_figures(tmp_path):
    run = Run(tmp_path, steps=5)
    run.go()
    lines, losses = run.lines(), []
    assert [line["step"] for line in lines] == [2, 4, 5]
    single = Run(tmp_path / "single", steps=5, log_every=1)
    (tmp_path / "single").mkdir()
    single.go()
    weights = [float(np.sum(tiny.batch(0, 4 * i, 4).loss_weights[:, 1:])) for i in range(5)]
    losses = [line["loss"] for line in single.lines()]
    assert lines[1]["loss"] == pytest.approx(np.average(losses[2:4], weights=weights[2:4]), rel=1e-6)
    figures = {"loss/text", "loss/image", "gradient_norm", "learning_rate", "router/load", "memory_bytes", "skipped"}
    assert figures | {"tokens_per_second", "mfu", "hfu", "data_wait"} <= set(lines[-1])
    assert lines[-1]["hfu"] == pytest.approx(2 * lines[-1]["mfu"])
    assert "loss/proprio" not in lines[-1]  # never a target
    assert "p 5/5  loss" in run.console.export_text()


def test_a_skipped_batch_is_logged_with_its_rows_and_leaves_the_means_clean(tmp_path):
    run = Run(tmp_path, bad=(9,))
    state = run.go()
    events = [line for line in run.lines() if "event" in line]
    assert [(line["step"], line["event"], line["rows"]) for line in events] == [(3, "skipped", [8, 12])]
    assert state.guard.skipped == 1
    assert all(np.isfinite(line["loss"]) for line in run.lines() if "loss" in line)
    assert "global rows 8 to 11" in run.console.export_text()


def test_too_many_skips_in_a_row_stop_the_run_and_name_the_rows(tmp_path):
    run = Run(tmp_path, steps=20, bad=(1, 8, 13, 18), max_skipped_steps=3)
    with pytest.raises(loop.Diverged, match="3 steps up to step 5 were skipped") as error:
        run.go()
    assert "global rows 8 to 19" in str(error.value)


def test_checkpoints_hold_the_next_row_and_the_last_one_is_always_written(tmp_path):
    run = Run(tmp_path, steps=5, checkpoint_every=2)
    state = run.go()
    written = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert written == [2, 4, 5]
    last = Checkpoint.open(tmp_path)
    assert (last.meta["next_row"], last.meta["progress"]["last"]["loss"]) == (20, run.recorder.last["loss"])
    jax.tree.map(np.testing.assert_array_equal, last.params, state.params)
    tokens = sum(int(np.sum(tiny.batch(0, 4 * i, 4).segment_ids)) for i in range(5))
    assert last.meta["progress"]["totals"]["all_tokens"] == tokens


def test_evaluation_runs_at_its_interval_and_after_the_last_step(tmp_path):
    run = Run(tmp_path, steps=5)
    run.evaluate = lambda state: {"steps_seen": float(state.step)}
    run.go(eval_every=2)
    seen = [(line["step"], line["eval/steps_seen"]) for line in run.lines() if "eval/steps_seen" in line]
    assert seen == [(2, 2.0), (4, 4.0), (5, 5.0)]


def test_sigterm_saves_the_running_step_and_restores_the_old_handler(tmp_path):
    run, before, calls = Run(tmp_path, steps=50), signal.getsignal(signal.SIGTERM), []

    def interrupt(batch):
        calls.append(batch)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return 1.0, 1.0

    run.flops = interrupt
    with pytest.raises(loop.Preempted, match="after step 3 of 50"):
        run.go()
    assert Checkpoint.open(tmp_path).meta["next_row"] == 12
    assert signal.getsignal(signal.SIGTERM) is before
    assert ranks.RETRY == 75
