"""The loop: dispatch a step, then read the metrics of the one before, so that the device never waits for the host."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from data.batch import Batch
from train.checkpoint import Checkpointer
from train.config import TrainConfig
from train.events import Events
from train.metrics import Meter, MetricWriter, Window, peak_memory_bytes
from train.progress import PhaseProgress
from train.step import Mean, Step, TrainState
from train.watchdog import Unwatched, Watch


class RowPipeline(Protocol):
    """Endless batches, or what `Collect` makes them of, whose whole state is the next global row."""

    batch_size: int

    def iterator(self, start_row: int, host: int, num_hosts: int) -> Iterator[Any]: ...


class Collect(Protocol):
    """Draws what is learnt from out of the state of a step. It does so for `updates` steps at once, between which no
    run can be taken up again."""

    updates: int

    def __call__(self, state: TrainState, given: Any, /) -> Batch: ...


class Preempted(Exception):
    """SIGTERM came; the state is saved. The process is to exit with the code RETRY."""


class Diverged(RuntimeError):
    """Too many steps in a row were skipped."""


class Preemption:
    """Whether SIGTERM has come. With several processes all of them see it at the same step.

    JAX handles the signal itself once `jax.distributed.initialize` has run; a handler of ours would disable that.
    """

    def __enter__(self) -> Preemption:
        self._asked, self._previous = threading.Event(), None
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, lambda *_: self._asked.set())
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def reached(self, step: int) -> bool:
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked.is_set()


class Recorder:
    """Reads each step's metrics after the next step was dispatched; logs them; stops a run that keeps skipping.

    Raises Diverged naming the global rows once `max_skipped_steps` steps in a row were skipped.
    """

    def __init__(
        self,
        settings: TrainConfig,
        steps: int,
        writer: MetricWriter,
        meter: Meter,
        progress: PhaseProgress,
        events: Events | None = None,
    ):
        self.events = events or Events(None)
        self._settings, self._steps, self._writer, self._meter, self._progress = (
            settings,
            steps,
            writer,
            meter,
            progress,
        )
        self._pending: tuple[int, tuple[int, int], tuple[float, float], dict[str, Mean]] | None = None
        self._window, self._skipped_rows = Window(), []
        self.last: dict[str, Any] = {}  # figures of the last window
        self.evaluation: dict[str, float] = {}  # figures of the last evaluation

    def snapshot(self) -> dict[str, Any]:
        """What a checkpoint keeps of the report, so that a restarted run ends with the same one."""
        return {"totals": dict(self._meter.totals), "last": self.last, "evaluation": self.evaluation}

    def resume(self, snapshot: dict[str, Any]) -> None:
        self.last, self.evaluation = snapshot["last"], snapshot["evaluation"]

    def push(self, step: int, rows: tuple[int, int], flops: tuple[float, float], metrics: dict[str, Mean]) -> None:
        """`step` counts finished steps, this one included; `rows` are its global rows [first, end)."""
        self.flush()
        self._pending = step, rows, flops, metrics

    def idle(self) -> bool:
        """Whether no step is being computed."""
        return self._pending is None or self._pending[3]["loss"][0].is_ready()

    def flush(self) -> None:
        if self._pending is None:
            return
        (step, rows, flops, metrics), self._pending = self._pending, None
        with self.events.blocked():
            metrics = jax.device_get(metrics)
        self.events.stepped(step)
        counts = {name: int(metrics.pop(name)[0]) for name in ("tokens", "skipped", "skipped_in_a_row")}
        self._meter.step_finished(counts["tokens"], *flops)
        if counts["skipped_in_a_row"]:
            self._skip(step, rows, counts["skipped_in_a_row"], metrics)
        else:
            self._window.add(metrics)
            self._skipped_rows = []
        self._progress.advance(step)
        if step % self._settings.log_every == 0 or step == self._steps:
            values = {**self._window.means(), **self._meter.window_rates(), "memory_bytes": peak_memory_bytes()}
            self.last = {**values, "skipped": counts["skipped"]}
            self._writer.write(step, self.last)
            self.events.steps()
            self._progress.report(step, self.last)

    def evaluated(self, step: int, values: dict[str, float]) -> None:
        self.evaluation = values
        self._writer.write(step, {f"eval/{name}": value for name, value in values.items()})
        self._progress.note(f"evaluation after step {step}: {'  '.join(f'{k} {v:.4f}' for k, v in values.items())}")

    def _skip(self, step: int, rows: tuple[int, int], in_a_row: int, metrics: dict[str, Mean]) -> None:
        loss, norm = (float(np.divide(*metrics[name])) for name in ("loss", "gradient_norm"))
        self._skipped_rows.append(rows)
        self._writer.write(step, {"event": "skipped", "rows": list(rows), "why": f"loss {loss}, norm {norm}"})
        self._progress.note(f"skipped step {step}: loss {loss:.4g}, gradient norm {norm:.4g}, {_named([rows])}")
        if in_a_row >= self._settings.max_skipped_steps:
            raise Diverged(
                f"{in_a_row} steps up to step {step} were skipped in a row (train.max_skipped_steps = "
                f"{self._settings.max_skipped_steps}); the last loss was {loss:.4g} and gradient norm {norm:.4g}. They "
                f"hold {_named(self._skipped_rows)}. Look at these rows, lower the learning rate, or raise "
                "train.spike_factor; the last checkpoint is untouched."
            )


def train(
    state: TrainState,
    step_fn: Step,
    pipeline: RowPipeline,
    *,
    start: int,
    steps: int,
    next_row: int,
    settings: TrainConfig,
    checkpointer: Checkpointer,
    recorder: Recorder,
    meter: Meter,
    place: Callable[[Batch], Batch],
    flops: Callable[[Batch], tuple[float, float]],
    evaluate: Callable[[TrainState], dict[str, float]] | None,
    eval_every: int,
    preemption: Preemption,
    collect: Collect | None = None,
    share: tuple[int, int] = (0, 1),
    watch: Watch | None = None,
    check: Callable[[TrainState, int], None] = lambda *_: None,
) -> TrainState:
    """Runs steps start .. steps-1 and returns when the last checkpoint is on disk.

    place: puts this host's rows of a batch on its devices. flops: model and hardware FLOPs of this host's batch.
    collect: makes the batch of a step out of what the pipeline gives.
    share: (index, count), which of so many equal parts of a batch's rows this process reads. watch: told what is done.
    check: looks at a state, reached after so many steps, before it is saved.
    Raises Preempted after a checkpoint if SIGTERM came, Diverged, CheckpointError, and whatever the data raises.
    """

    watch, events = watch or Unwatched(), recorder.events

    def save(step: int, *, lasting: bool = True) -> None:
        recorder.flush()
        watch.at("the checkpoint", step, pause=True)
        with meter.paused(), events.of("checkpoint", step):
            check(state, step)
            checkpointer.save(state, step=step, next_row=next_row, progress=recorder.snapshot(), lasting=lasting)

    with _closing(pipeline.iterator(next_row, *share)) as batches:
        for step in range(start + 1, steps + 1):
            first = step < start + 3  # compiles the step, then runs it for the first time
            watch.at("the data", step, pause=first)
            with meter.waiting(), events.data(recorder.idle):
                batch = next(batches)
            if collect is not None:
                watch.at("the samples", step, pause=True)
                batch = collect(state, batch)
            watch.at("the computation", step, pause=first)
            work = flops(batch)
            with events.of("compile", step) if step == start + 1 else contextlib.nullcontext():
                state, metrics = step_fn(state, place(batch))
            rows, next_row = (next_row, next_row + pipeline.batch_size), next_row + pipeline.batch_size
            recorder.push(step, rows, work, metrics)
            if evaluate is not None and (step == steps or (eval_every and step % eval_every == 0)):
                recorder.flush()
                watch.at("the evaluation", step, pause=True)
                with meter.paused(), events.of("evaluation", step):
                    recorder.evaluated(step, evaluate(state))
            if step == steps or step % settings.checkpoint_every == 0:
                save(step)
            elif settings.local_every and step % settings.local_every == 0:
                save(step, lasting=False)
            whole = collect is None or step % collect.updates == 0
            if step < steps and whole and preemption.reached(step):
                save(step)
                with events.of("checkpoint", step):
                    checkpointer.wait()
                raise Preempted(f"asked to stop after step {step} of {steps}; its checkpoint is written")
    watch.at("the last checkpoint", steps, pause=True)
    with events.of("checkpoint", steps):
        checkpointer.wait()
    return state


@contextlib.contextmanager
def _closing(iterator: Iterator[Batch]):
    try:
        yield iterator
    finally:
        getattr(iterator, "close", lambda: None)()


def _named(rows: list[tuple[int, int]]) -> str:
    """Consecutive batches as one range."""
    return f"global rows {rows[0][0]} to {rows[-1][1] - 1}"
