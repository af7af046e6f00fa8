"""The phases of a run: each is built, initialised or resumed, trained and closed with a `done.json`.

Layout: <workdir>/<phase>/ holds `checkpoints/<step>`, `metrics.jsonl`, `tensorboard/`, `events/<rank>.jsonl`,
`init.json` and `done.json`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from configs.schema import parse, to_plain
from data.batch import Batch
from data.vocabulary import only_adds_codes
from sharding.rules import Axes
from train.abstract import abstract_state
from train.adapted import adapted
from train.checkpoint import Assets, Checkpoint, Checkpointer, refuse_other_config, refuse_other_tokenizer
from train.config import PhaseConfig, Teaching, TrainConfig, check_phases
from train.events import Events
from train.initialise import copy_parameters
from train.integrity import Integrity
from train.loop import Collect, Preempted, Preemption, Recorder, RowPipeline, train
from train.lora import Lora
from train.metrics import Meter, MetricWriter, peak_memory_bytes
from train.objectives import OBJECTIVES
from train.optimizer import build_optimizer
from train.progress import PhaseProgress
from train.sections import completed
from train.step import LossFn, TrainState, make_step
from train.stored import stored
from train.watchdog import Unwatched, Watch


@dataclasses.dataclass(frozen=True)
class Phase:
    """What the loop needs to know of a model, an objective and its data.

    init: makes (params, buffers), nested dictionaries of arrays that lie where they belong on the mesh.
    abstract: the same as shapes with their placement, for what is read from a checkpoint; None: `init` says it.
    axes: logical axes of every parameter by its name (path joined by `/`).
    loss_fn, constants: see `train.step.make_step`; a teacher's parameters are constants.
    place: puts this host's rows of a batch on its devices.
    flops: model and hardware FLOPs of a train step on this host's rows of a batch.
    evaluate: figures of a state on held-out data, or None.
    collect: makes the batch of a step from the state and what the pipeline gives; None where that is the batch.
    share: (index, count): this process reads the index-th of so many equal parts of a batch's rows.
    lora: the adapters that are trained in place of the parameters, which loss_fn takes joined with them.
    merge: makes of what is trained the parameters that others read (see `train.adapted`).
    """

    init: Callable[[], tuple[Any, Any]]
    axes: Mapping[str, Axes]
    loss_fn: LossFn
    pipeline: RowPipeline
    assets: Assets
    place: Callable[[Batch], Batch]
    flops: Callable[[Batch], tuple[float, float]]
    evaluate: Callable[[TrainState], dict[str, float]] | None = None
    constants: tuple[Any, ...] = ()
    collect: Collect | None = None
    lora: Lora | None = None
    merge: Callable[[Any], Any] | None = None
    share: tuple[int, int] = (0, 1)
    abstract: Callable[[], tuple[Any, Any]] | None = None


@dataclasses.dataclass(frozen=True)
class Feed:
    """What a phase learns from and is measured on; fields as in `Phase`. example_batch: travels in checkpoints."""

    pipeline: RowPipeline
    example_batch: Batch
    evaluate: Callable[[TrainState], dict[str, float]] | None
    collect: Collect | None = None


Build = Callable[[ConfigDict, str, Checkpoint | None], Phase]  # of (config, phase name, its teacher)


def read_sections(config: ConfigDict) -> tuple[TrainConfig, dict[str, PhaseConfig]]:
    """The checked `train` section and phases. Raises ValueError naming the field."""
    sections: dict[str, Any] = config.to_dict()
    phases = {n: parse(PhaseConfig, section, f"config.phases.{n}") for n, section in sections["phases"].items()}
    settings = parse(TrainConfig, sections["train"], "config.train")
    check_phases(
        settings,
        phases,
        models=sections["models"],
        sources=sections["sources"],
        objectives={name: _teaching(module.loss) for name, module in OBJECTIVES.items()},
        stores=[name for name, module in OBJECTIVES.items() if reads_stores(module.loss)],
    )
    return settings, phases


def reads_stores(loss: Callable[..., Any]) -> bool:
    """Whether an objective can learn from stored entries of a teacher: told by its parameter `stored`."""
    return "stored" in inspect.signature(loss).parameters


def _teaching(loss: Callable[..., Any]) -> Teaching:
    """Told by the objective's parameter `teacher`: one with a default may be left out."""
    teacher = inspect.signature(loss).parameters.get("teacher")
    if teacher is None:
        return "none"
    return "required" if teacher.default is inspect.Parameter.empty else "optional"


def run(
    config: ConfigDict, workdir: Path, build: Build, only: str | None = None, watch: Watch | None = None
) -> dict[str, Any]:
    """Runs the phases in order, or phase `only`; returns the content of each `done.json` by phase.

    watch: is told what is done; see `train.watchdog`.

    A finished phase is skipped and an unfinished one goes on from its latest checkpoint, with results bit-identical to
    an uninterrupted run. Raises ValueError for a checkpoint of another config, Preempted after SIGTERM, Diverged, and
    CheckpointError.
    """
    config = completed(config)
    settings, phases = read_sections(config)
    if only is not None and only not in settings.phases:
        raise ValueError(f"--phase is {only!r}; config.train.phases has {', '.join(settings.phases)}")
    chosen = [name for name in settings.phases if only in (None, name)]
    watch, folder = watch or Unwatched(), Path(workdir).resolve()
    runs = {name: _PhaseRun(config, name, settings, phases, folder, watch) for name in chosen}
    for run_ in runs.values():
        run_.refuse_missing_checkpoints()
    return {name: run_.finished() or run_.execute(build) for name, run_ in runs.items()}


class _PhaseRun:
    """One phase of one run in its folder."""

    def __init__(
        self,
        config: ConfigDict,
        name: str,
        settings: TrainConfig,
        phases: dict[str, PhaseConfig],
        workdir: Path,
        watch: Watch,
    ):
        self.config, self.name, self.settings, self.phases, self.watch = config, name, settings, phases, watch
        self.phase, self.workdir, self.folder = phases[name], workdir, workdir / name
        self.steps = settings.steps or self.phase.steps

    def finished(self) -> dict[str, Any] | None:
        """The report of the phase if it is done with this config, else None."""
        if not (self.folder / "done.json").is_file():
            return None
        self._refuse_other_config(Checkpoint.open(self.folder))
        done = json.loads((self.folder / "done.json").read_text())
        if done["steps"] == self.steps:
            return done
        later = self.settings.phases[self.settings.phases.index(self.name) + 1 :]
        begun = [name for name in later if (self.workdir / name / "checkpoints").is_dir()]
        if self.steps < done["steps"] or begun:
            why = f"phase {begun[0]!r} has begun from its result" if begun else "they cannot be undone"
            raise ValueError(
                f"phase {self.name!r} in {self.workdir} is finished with {done['steps']} steps, the config asks for "
                f"{self.steps}, but {why}; set steps back or choose another --workdir"
            )
        return None

    def execute(self, build: Build) -> dict[str, Any]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"--workdir {self.workdir} cannot be written: {error}; choose another") from error
        self.watch.at(f"the start of {self.name}", 0, pause=True)
        with Events(self.folder) as events:
            built = build(self.config, self.name, self._teacher())
            events.begin()
            tiers = {"keep": self.settings.keep, "local": self.settings.local_checkpoints}
            checkpointer = Checkpointer(self.folder / "checkpoints", built.assets, **tiers)
            try:
                with Preemption() as preemption:
                    done = self._train(built, checkpointer, preemption, events)
            except Exception as error:
                if jax.process_count() == 1 or isinstance(error, Preempted):  # a peer may be gone, and never be met
                    checkpointer.close()
                raise
            checkpointer.close()
        return done

    def _train(
        self, built: Phase, checkpointer: Checkpointer, preemption: Preemption, events: Events
    ) -> dict[str, Any]:
        built, state, step_fn, meta = self._state(built, checkpointer)
        start, snapshot = meta["step"], meta["progress"]
        check = {}
        if self.settings.integrity_every:
            step_fn = Integrity(step_fn, state, start=start, every=self.settings.integrity_every, events=events)
            check = {"check": step_fn.compare}
        events.write("state", step=start)
        meter = Meter(snapshot.get("totals", {}))
        writer, progress = MetricWriter(self.folder, start), PhaseProgress(self.name, start, self.steps)
        recorder = Recorder(self.settings, self.steps, writer, meter, progress, events)
        try:
            if start:
                recorder.resume(snapshot)
                progress.note(f"{self.name} goes on after step {start} of {self.steps}")
            state = train(
                state,
                step_fn,
                built.pipeline,
                start=start,
                steps=self.steps,
                next_row=meta["next_row"],
                settings=self.settings,
                checkpointer=checkpointer,
                recorder=recorder,
                meter=meter,
                place=built.place,
                flops=built.flops,
                evaluate=built.evaluate,
                eval_every=self.phase.eval_every,
                preemption=preemption,
                collect=built.collect,
                share=built.share,
                watch=self.watch,
                **check,
            )
        finally:
            writer.close()
            progress.close()
        return self._close(built, state, recorder, meter)

    def _state(self, built: Phase, checkpointer: Checkpointer) -> tuple[Phase, TrainState, Any, dict[str, Any]]:
        """The phase as one of what it trains, the state to go on from, the step function, and the meta data of the
        checkpoint (zeros at the beginning)."""
        begins = checkpointer.stored is None
        if begins:
            params, buffers = self._take_over(built, *built.init())
        elif built.lora is None and built.abstract is not None:
            params, buffers = built.abstract()  # nothing is made that the checkpoint brings
        else:
            params, buffers = built.init()
        if built.lora is not None:
            built, params = adapted(built, params, self.folder, resumed=not begins)
            checkpointer.merge = built.merge
        optimizer = build_optimizer(self.phase.optimizer, self.steps, params, built.axes)
        step_fn = make_step(
            built.loss_fn,
            optimizer,
            seed=zlib.crc32(f"{self.config.seed}/{self.name}".encode()),
            accumulate=self.phase.accumulate,
            ema=self.phase.ema,
            spike_factor=self.settings.spike_factor,
            constants=built.constants,
        )
        ema = self.phase.ema > 0
        if checkpointer.stored is None:
            state = TrainState.create(params, buffers, optimizer, ema=ema)
            return built, state, step_fn, {"step": 0, "next_row": 0, "progress": {}}
        stored = checkpointer.stored
        self._refuse_other_config(stored)
        refuse_other_tokenizer(stored, built.assets.vocabulary)
        if stored.step > self.steps:
            raise ValueError(f"{stored.path} is past the {self.steps} steps asked for; raise steps or change --workdir")
        made = isinstance(jax.tree.leaves(params)[0], jax.Array)
        like = (TrainState.create if made else abstract_state)(params, buffers, optimizer, ema=ema)
        state, meta = checkpointer.restore(like)
        return built, state, step_fn, meta

    def _take_over(self, built: Phase, params: Any, buffers: Any) -> tuple[Any, Any]:
        """Parameters and buffers of what `init` names, where they fit; `init.json` lists what was done.

        A vocabulary may have more codes than that of the source: the tables' rows for them stay as initialised.
        """
        source = self._init_checkpoint()
        if source is None:
            return params, buffers
        if not only_adds_codes(source.vocabulary_bytes, built.assets.vocabulary):
            refuse_other_tokenizer(source, built.assets.vocabulary)
        tables = {name for name, axes in built.axes.items() if axes[:1] == ("vocab",)}
        params, report = copy_parameters(stored(source, "weights"), params, self.phase.copy, may_grow=tables)
        kept = stored(source, "buffers")
        if jax.tree.leaves(buffers) and jax.tree.leaves(kept):
            buffers, _ = copy_parameters(kept, buffers, self.phase.copy)
        if jax.process_index() == 0:
            origin = self.phase.init_path or source.phase
            _write_json(self.folder / "init.json", {"from": origin, **dataclasses.asdict(report)})
            print(f"{self.name} starts from {origin}: {report.summary()}")
        return params, buffers

    def refuse_missing_checkpoints(self) -> None:
        """So that a run stops now rather than after the phases before this one."""
        if self.phase.init_path is not None and not (self.folder / "checkpoints").is_dir():
            self._init_checkpoint()
        if self.phase.teacher_path is not None and not (self.folder / "done.json").is_file():
            self._teacher()

    def _init_checkpoint(self) -> Checkpoint | None:
        """Raises ValueError, naming the field, where there is none."""
        if self.phase.init_path is None:
            return self._result_of(self.phase.init_phase)
        return self._opened("init", self.phase.init_path)

    def _teacher(self) -> Checkpoint | None:
        """None also where a store teaches. Raises ValueError, naming the field, for a checkpoint that is not there."""
        if self.phase.teacher_path is None:
            return self._result_of(self.phase.teacher_phase)
        return self._opened("teacher", self.phase.teacher_path)

    def _opened(self, field: str, path: str) -> Checkpoint:
        try:
            return Checkpoint.open(path)
        except ValueError as error:
            raise ValueError(f"config.phases.{self.name}.{field}: {error}") from error

    def _result_of(self, name: str | None) -> Checkpoint | None:
        """The final checkpoint of another phase. Raises ValueError if that phase is not finished."""
        if name is None:
            return None
        if not (self.workdir / name / "done.json").is_file():
            raise ValueError(
                f"phase {self.name!r} needs phase {name!r}, which is not finished in {self.workdir}; run it"
            )
        return Checkpoint.open(self.workdir / name)

    def _refuse_other_config(self, stored: Checkpoint) -> None:
        """Fields of other phases may differ, and those that do not change what this phase computes.

        Defaults count as spelled, so a field that is new since the checkpoint was written does not spoil it.
        """
        ours = f"phases.{self.name}"
        mine = {"models": {self.phase.model}, "sources": set(self.phase.mixture), "phases": {self.name}}
        config = to_plain(self.config)
        others = [
            f"{section}.{name}"
            for section, names in mine.items()
            for name in {*config.get(section, {}), *stored.config.get(section, {})} - names
        ]
        stored = dataclasses.replace(stored, config=to_plain(completed(ConfigDict(stored.config))))
        may_differ = ["train", "mesh", "evaluate", f"{ours}.steps", f"{ours}.eval_every", *others]
        refuse_other_config(stored, config, may_differ)

    def _close(self, built: Phase, state: TrainState, recorder: Recorder, meter: Meter) -> dict[str, Any]:
        whole = state.params if built.merge is None else jax.eval_shape(built.merge, state.params)
        figures = {
            "steps": self.steps,
            "seconds": meter.totals["wall_seconds"],
            "tokens": meter.totals["all_tokens"],
            **meter.total_rates(),
            "peak_flops_per_second": meter.peak,
            "peak_flops_source": meter.peak_source,
            "peak_memory_bytes": peak_memory_bytes(),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(whole)),
            "trained_parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            "losses": {name: value for name, value in recorder.last.items() if name.startswith("loss")},
            "skipped": recorder.last.get("skipped", 0),
            "evaluation": recorder.evaluation,
        }
        if jax.process_index() == 0:
            _write_json(self.folder / "done.json", figures)
        if jax.process_count() > 1:  # the next phase looks for it
            multihost_utils.sync_global_devices(f"done {self.name}")
        return figures


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)
