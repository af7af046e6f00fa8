"""`python -m train.distill_store --config C --phase P [--workdir W] [--teacher T] [--out DIR] [--entries 256] ...`.

P is the student phase, whose rows the teacher is run over. Run the same command again after an interruption: finished
shards stay. Exit codes: 0 done; 1 anything else, with one line that says what.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from configs import command
from model.startup import prepare_kernels
from sharding import processes
from train.build import check
from train.checkpoint import Checkpoint
from train.config import PhaseConfig
from train.distill_store.writer import write
from train.objectives import OBJECTIVES
from train.phases import read_sections, reads_stores
from train.sections import completed

_PHASE = flags.DEFINE_string("phase", None, "The student phase, whose data the store is for.", allow_override=True)
_TEACHER = flags.DEFINE_string(
    "teacher", None, "A phase of the run or a checkpoint's folder; the phase's if not given."
)
_OUT = flags.DEFINE_string(
    "out", None, "The store's folder; that of the phase's `teacher: store:<folder>` by default.", allow_override=True
)
_KIND = flags.DEFINE_enum("kind", "sampled", ["sampled", "topk"], "Entries drawn by probability, or the largest.")
_ENTRIES = flags.DEFINE_integer("entries", 256, "Draws, or largest entries, for each target.")
_ROWS = flags.DEFINE_integer("rows", None, "Rows to hold; what the phase's steps take if not given.")
_BATCHES = flags.DEFINE_integer("batches_per_shard", 16, "Batches of the phase in one shard.")
_PART = flags.DEFINE_string("part", "0/1", "i/n: write every n-th missing shard from the i-th on, for parallel jobs.")


def main(config: ConfigDict, workdir: Path) -> None:
    prepare_kernels()
    processes.start(processes.from_environment())
    settings, phases = read_sections(config)
    check(config)
    if _PHASE.value not in phases:
        raise ValueError(f"--phase is {_PHASE.value!r}; config.phases has {', '.join(phases)}")
    phase = phases[_PHASE.value]
    if not reads_stores(OBJECTIVES[phase.objective].loss):
        raise ValueError(
            f"--phase is {_PHASE.value!r} with objective {phase.objective!r}, which learns from no store; name a phase "
            "with objective 'distill'"
        )
    out = _OUT.value or phase.teacher_store
    if out is None:
        raise ValueError(f"--out is not given and config.phases.{_PHASE.value}.teacher names no store; give a folder")
    written = write(
        config,
        _PHASE.value,
        _teacher(phase, workdir),
        Path(out),
        kind="topk" if _KIND.value == "topk" else "sampled",
        num=_ENTRIES.value,
        rows=(settings.steps or phase.steps) * phase.pipeline.batch_size if _ROWS.value is None else _ROWS.value,
        batches_per_shard=_BATCHES.value,
        part=_part(),
    )
    if not written.rows:
        print(f"{out} has all of these rows")
        return
    print(
        f"{out}: {written.rows} rows in {written.seconds:.1f} s; {written.targets} targets "
        f"({written.targets / written.seconds:,.0f}/s) with {written.entries / written.targets:.1f} different entries, "
        f"{written.bytes / written.targets:.1f} bytes each"
    )


def _teacher(phase: PhaseConfig, workdir: Path) -> Checkpoint:
    name = _TEACHER.value or phase.teacher_phase or phase.teacher_path
    if name is None:
        raise ValueError("--teacher is not given and the phase names no model; give a phase or a checkpoint's folder")
    folder = workdir / name if (workdir / name).is_dir() else Path(name)
    try:
        return Checkpoint.open(folder)
    except ValueError as error:
        raise ValueError(f"--teacher {name}: {error}") from error


def _part() -> tuple[int, int]:
    index, _, count = _PART.value.partition("/")
    if not (index.isdigit() and count.isdigit()):
        raise ValueError(f"--part is {_PART.value!r}; write i/n, as in 0/4")
    return int(index), int(count)


if __name__ == "__main__":
    command.run(main, completed)
