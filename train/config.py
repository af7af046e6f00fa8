"""The `train` and `phases.<name>` sections of a config, checked alone and against each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Literal

from data.config import PipelineConfig
from model.quantization import Quantization
from train.lora import LoraConfig
from train.optimizer import OptimizerConfig
from train.rollout.config import RolloutConfig

Teaching = Literal["required", "optional", "none"]  # what an objective does with a teacher

_ELSEWHERE = ("path:", "store:")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a run goes, whatever it trains; all of it may differ when a run is taken up again.

    `steps` overrides the steps of every phase, for smoke runs; `spike_factor` None skips non-finite steps only.
    """

    phases: tuple[str, ...]  # in order
    steps: int | None = None
    checkpoint_every: int = 500
    keep: int = 2  # checkpoints of a phase
    local_checkpoints: str = ""  # folder on a faster disk, seen by all processes, where checkpoints are written first
    local_every: int = 0  # steps between checkpoints that stay there and are not copied to the run; 0 = none
    integrity_every: int = 0  # steps between comparisons of what devices hold, bit for bit; 0 = never
    log_every: int = 10
    max_skipped_steps: int = 10  # in a row, before the run stops
    spike_factor: float | None = 10.0  # times the running mean of gradient norms
    watchdog_seconds: float | None = 45.0  # a step that takes longer, and 5 times as long as any before it, is given up
    watchdog_pause_seconds: float = 1800.0  # the same for start-up, compilation, evaluations and checkpoints

    def __post_init__(self):
        if not self.phases or len(set(self.phases)) != len(self.phases):
            raise ValueError(f"phases is {self.phases!r}; it must name each phase once, at least one")
        for field in ("steps", "checkpoint_every", "keep", "log_every", "max_skipped_steps"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} is {value}; it must be at least 1")
        for field in ("local_every", "integrity_every"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be 0 or more steps")
        if self.local_every and not self.local_checkpoints:
            raise ValueError(
                f"local_every is {self.local_every} but local_checkpoints names no folder; give one, or set it to 0"
            )
        if self.spike_factor is not None and self.spike_factor <= 1:
            raise ValueError(
                f"spike_factor is {self.spike_factor}; it must be above 1, or None to allow any finite norm"
            )
        if self.watchdog_seconds is not None and self.watchdog_seconds < 5:
            raise ValueError(f"watchdog_seconds is {self.watchdog_seconds}; it must be at least 5, or None for no end")
        if self.watchdog_pause_seconds < (self.watchdog_seconds or 0):
            raise ValueError(
                f"watchdog_pause_seconds is {self.watchdog_pause_seconds}; it must be at least watchdog_seconds "
                f"({self.watchdog_seconds})"
            )

    @property
    def heartbeat_seconds(self) -> int:
        """After so long JAX aborts the peers of a dead process: when the watchdog, which tells more, had its turn."""
        return 100 if self.watchdog_seconds is None else int(self.watchdog_seconds) + 12


@dataclasses.dataclass(frozen=True)
class PhaseConfig:
    """One phase: an objective on a mixture, from an initialisation to a number of steps."""

    objective: str
    model: str  # a name in `models`
    mixture: dict[str, float]  # share of slots of each name in `sources`
    pipeline: PipelineConfig
    steps: int
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the objective
    accumulate: int = 1  # microbatches of a batch
    init: str = "scratch"  # or "phase:<name>": the weights that phase ended with; "path:<folder>": of any checkpoint
    copy: tuple[tuple[str, str], ...] = ()  # (path in that phase or checkpoint, path here); () = equal paths
    teacher: str | None = None  # a phase whose final model teaches; "path:<folder>" of any checkpoint; "store:<folder>"
    lora: LoraConfig | None = None  # train adapters in place of the whole model
    ema: float = 0.0  # decay of averaged parameters; 0 = none
    quantize: Quantization | None = None  # train through weights that are rounded so; export with the same --quantize
    eval_every: int = 0  # steps; 0 = after the last one only
    rollout: RolloutConfig | None = None  # answers to learn from, for objectives that learn from their own

    def __post_init__(self):
        if not self.mixture or min(self.mixture.values()) <= 0:
            raise ValueError(f"mixture is {self.mixture!r}; it must give at least one source a positive share")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        if self.accumulate < 1 or self.pipeline.batch_size % self.accumulate:
            raise ValueError(f"accumulate is {self.accumulate}; it must divide batch_size {self.pipeline.batch_size}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must be in [0, 1); 0 keeps no average")
        if self.eval_every < 0:
            raise ValueError(f"eval_every is {self.eval_every}; it must be 0 or more steps")
        if self.init != "scratch" and not self.init.startswith(("phase:", "path:")):
            raise ValueError(f"init is {self.init!r}; it must be 'scratch' or 'phase:<name>' or 'path:<folder>'")
        if self.copy and self.init == "scratch":
            raise ValueError(f"copy is {self.copy!r} but init 'scratch' copies nothing; remove it or set init")
        if self.lora is not None and self.init == "scratch":
            raise ValueError("lora adapts a trained model but init is 'scratch'; set init to a phase or a path")
        if self.lora is not None and self.optimizer.kind == "muon":
            raise ValueError("optimizer.kind is 'muon', which is not for the thin matrices of lora; set it to 'adamw'")
        if self.lora is not None and self.quantize is not None:
            raise ValueError("quantize rounds whole weights, which lora does not train; remove one of them")
        if self.rollout is not None and self.quantize is not None:
            raise ValueError(
                "quantize rounds weights in the loss, which rollouts do not sample from; remove one of them"
            )
        if self.teacher is not None and self.teacher in ("", *_ELSEWHERE):
            raise ValueError(f"teacher is {self.teacher!r}; it must be a phase, 'path:<folder>' or 'store:<folder>'")

    @property
    def init_phase(self) -> str | None:
        return self.init.removeprefix("phase:") if self.init.startswith("phase:") else None

    @property
    def init_path(self) -> str | None:
        """A checkpoint of another run, or an imported one."""
        return self.init.removeprefix("path:") if self.init.startswith("path:") else None

    @property
    def teacher_phase(self) -> str | None:
        return None if self.teacher is None or self.teacher.startswith(_ELSEWHERE) else self.teacher

    @property
    def teacher_path(self) -> str | None:
        """A checkpoint of another run, or an imported one."""
        teacher = self.teacher or ""
        return teacher.removeprefix("path:") if teacher.startswith("path:") else None

    @property
    def teacher_store(self) -> str | None:
        """A folder that `python -m train.distill_store` wrote: no model teaches, what it said was kept."""
        teacher = self.teacher or ""
        return teacher.removeprefix("store:") if teacher.startswith("store:") else None


def check_phases(
    train: TrainConfig,
    phases: Mapping[str, PhaseConfig],
    *,
    models: Collection[str],
    sources: Collection[str],
    objectives: Mapping[str, Teaching],
    stores: Collection[str] = (),
) -> None:
    """Raises ValueError for a name that does not exist or comes too late, and for a teacher too many or too few.

    stores: the objectives that can learn from a store in place of a teacher.
    """

    def known(where: str, name: str, names: Collection[str], what: str) -> None:
        if name not in names:
            raise ValueError(f"{where} names {name!r}; known {what}: {', '.join(sorted(names)) or 'none'}")

    for position, name in enumerate(train.phases):
        known("config.train.phases", name, phases, "phases")
        phase, where, earlier = phases[name], f"config.phases.{name}", train.phases[:position]
        known(f"{where}.model", phase.model, models, "models")
        known(f"{where}.objective", phase.objective, objectives, "objectives")
        for source in phase.mixture:
            known(f"{where}.mixture", source, sources, "sources")
        if phase.init_phase is not None:
            known(f"{where}.init", phase.init_phase, earlier, "phases before it in config.train.phases")
        if phase.teacher_phase is not None:
            known(f"{where}.teacher", phase.teacher_phase, earlier, "phases before it in config.train.phases")
        if objectives[phase.objective] == "required" and phase.teacher is None:
            raise ValueError(f"{where}.teacher is None but objective {phase.objective!r} needs one; name a phase")
        if objectives[phase.objective] == "none" and phase.teacher is not None:
            raise ValueError(
                f"{where}.teacher is {phase.teacher!r} but objective {phase.objective!r} takes none; remove it"
            )
        if phase.teacher_store is not None and phase.objective not in stores:
            raise ValueError(
                f"{where}.teacher is {phase.teacher!r} but objective {phase.objective!r} needs a model; name a "
                f"phase or 'path:<folder>', or use an objective that reads stores: {', '.join(stores)}"
            )
    unused = sorted(set(phases) - set(train.phases))
    if unused:
        raise ValueError(f"config.phases.{unused[0]} is in no run; add it to config.train.phases or remove it")
