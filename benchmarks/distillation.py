"""What a student gains from a teacher, and what is lost, stored and saved when the teacher's words are on disk.

python -m benchmarks.distillation [--text FILE] [--seeds 0 1]
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
from typing import Any

from benchmarks import machine
from configs import distillation
from configs.command import read
from model.startup import prepare_kernels
from train.build import build_phase
from train.checkpoint import Checkpoint
from train.distill_store.format import Kind
from train.distill_store.reader import Store
from train.distill_store.writer import write
from train.phases import run
from train.sections import completed

STUDENTS = ("hard", "online", "sampled", "topk")
STORES: tuple[Kind, ...] = ("sampled", "topk")
TEACHER_SEED = 0
CONFIG = distillation.__file__


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.distillation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--text", default=distillation.SHAKESPEARE, help="what to learn from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of students and of the order of their rows")
    parser.add_argument("--entries", type=int, default=32, help="of 512 tokens")
    parser.add_argument("--scale", choices=("full", "small"), default="full", help="small: two steps of everything")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path(distillation.RUN))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/distillation.json"))
    options = parser.parse_args(arguments)
    prepare_kernels()
    name = pathlib.Path(options.text).stem
    kept = json.loads(options.out.read_text()) if options.out.exists() else {}
    before: dict[str, Any] = kept.get(name, {})
    runs = dict(before["runs"]) if before.get("entries") == options.entries else {}
    for seed in options.seeds:
        runs[str(seed)] = measured(options, options.workdir / name, seed)
    record: dict[str, Any] = {"machine": machine.describe(("jax", "jaxlib", "flax")), "entries": options.entries}
    record["runs"] = runs
    losses = {student: [r["loss"][student] for r in runs.values()] for student in ("teach", *STUDENTS)}
    record["mean_loss"] = {student: statistics.mean(values) for student, values in losses.items()}
    hard = record["mean_loss"]["hard"]
    gaps = {s: [a - b for a, b in zip(losses[s], losses["online"], strict=True)] for s in STORES}
    record["below_hard_label"] = {s: hard - record["mean_loss"][s] for s in STUDENTS[1:]}
    record["above_online"] = {s: {"mean": statistics.mean(g), "each": g} for s, g in gaps.items()}
    print(json.dumps(record, indent=1))
    if options.scale == "full":
        options.out.write_text(json.dumps(kept | {name: record}, indent=1) + "\n")


def measured(options: argparse.Namespace, folder: pathlib.Path, seed: int) -> dict:
    """Held-out loss in nats a token of the teacher and every student, and figures of each store and phase."""
    config, workdir = read(f"{CONFIG}:{options.text}", (), completed), folder / f"seed{seed}"
    config.vocabulary.path = str(folder / "vocabulary.model")
    config.train.steps = None if options.scale == "full" else 2
    for kind in STORES:
        config.phases[kind].teacher = f"store:{workdir / kind}.store"
    config.seed = TEACHER_SEED
    done, stores = run(config, folder / "teacher", build_phase, "teach"), {}
    teacher = Checkpoint.open(folder / "teacher" / "teach")
    config.seed = seed
    config.phases.online.teacher = f"path:{teacher.path}"
    for kind in STORES:
        rows = (config.train.steps or config.phases[kind].steps) * config.phases[kind].pipeline.batch_size
        store, sizes = workdir / f"{kind}.store", {"num": options.entries, "rows": rows, "batches_per_shard": 25}
        written = write(config, kind, teacher, store, kind=kind, **sizes)
        total = {n: sum(shard[n] for shard in Store(store).shards.values()) for n in ("targets", "entries", "bytes")}
        stores[kind] = {"bytes_per_target": total["bytes"] / total["targets"]}
        stores[kind] |= {"different_entries": total["entries"] / total["targets"]}
        if written.rows:
            stores[kind]["targets_per_second"] = written.targets / written.seconds
    for student in STUDENTS:
        done |= run(config, workdir, build_phase, student)
    return {
        "loss": {phase: figures["evaluation"]["loss/text"] for phase, figures in done.items()},
        "tokens_per_second": {phase: figures["tokens_per_second"] for phase, figures in done.items()},
        "parameters": {phase: done[phase]["parameters"] for phase in ("teach", "hard")},
        "stores": stores,
    }


if __name__ == "__main__":
    main()
