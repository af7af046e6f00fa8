"""`python -m eval --config C --workdir W`: judges the phases of a finished run; writes `summary.json` and episodes.

What is judged is the config's `evaluate` section: held-out text against a trigram model, and closed-loop robot tasks.
"""

from __future__ import annotations

import json
import shutil
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs.schema import parse, to_plain
from eval import text
from eval.config import EvaluateConfig, RobotConfig, TextConfig
from eval.jobs.command import GroupPrinter
from eval.jobs.job import Job
from eval.jobs.suites import shifts_of
from eval.jobs.summary import summarise
from eval.journal import write_json
from model.startup import prepare_kernels
from serving.generate import generate
from serving.model import LoadedModel
from train.checkpoint import Checkpoint


def main(config: ConfigDict, workdir: Path) -> None:
    prepare_kernels()
    judge(parse(EvaluateConfig, config.get("evaluate", {}), "config.evaluate"), to_plain(config), workdir)


def judge(config: EvaluateConfig, whole: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """Runs every part, writes `summary.json`, `samples.json` and `episodes/*.npz`, and returns the summary."""
    start = time.time()
    summary: dict[str, Any] = _speed(workdir)
    if config.text is not None:
        figures, samples = _text(config.text, whole, workdir)
        summary |= figures
        write_json(workdir / "samples.json", samples)
    if config.robots:
        shutil.rmtree(workdir / "episodes", ignore_errors=True)
        summary["success"] = [row for s, section in config.robots.items() for row in _acting(s, section, workdir)]
    summary["evaluation_seconds"] = time.time() - start
    summary["seconds"] = time.time() - _started(workdir, start)
    summary["versions"] = {
        p: metadata.version(p) for p in ("jax", "flax", "optax", "orbax-checkpoint", "mujoco", "numpy")
    }
    write_json(workdir / "summary.json", summary)
    write_json(workdir / "config.json", whole)
    return summary


def _text(config: TextConfig, whole: dict[str, Any], workdir: Path) -> tuple[dict[str, float], list[dict[str, str]]]:
    figures, samples = {}, []
    for role, phase in (("teacher", config.teacher), ("student", config.student)):
        loaded = LoadedModel.of(Checkpoint.open(workdir / phase))
        validation = text.held_out(whole["sources"][config.source], loaded, "validation")
        figures[f"{role}_loss"], total = text.nats_per_token(loaded, validation)
        figures[f"{role}_bits_per_byte"] = text.bits_per_byte(total, validation)
        print(f"{role}: {figures[f'{role}_loss']:.3f} nats a token, {figures[f'{role}_bits_per_byte']:.3f} bits a byte")
        if config.prompts:
            texts = generate(loaded, config.prompts, num_tokens=config.num_tokens, temperature=config.temperature)
            samples += [{"model": role, "prompt": p, "text": t} for p, t in zip(config.prompts, texts, strict=True)]
        if role == "teacher":
            train = text.held_out(whole["sources"][config.source], loaded, "train")
            figures["bits_per_byte_trigram"] = text.trigram_bits_per_byte(train, validation)
            figures["bits_per_byte"] = figures["teacher_bits_per_byte"]
            print(f"trigram: {figures['bits_per_byte_trigram']:.3f} bits a byte")
    return figures, samples


def _acting(suite: str, section: RobotConfig, workdir: Path) -> list[dict[str, Any]]:
    """Success of each task, arm and condition, from the beginning; films go to `workdir/episodes`."""
    out = workdir / "evaluations" / suite
    shutil.rmtree(out, ignore_errors=True)
    job = Job(suite, section, Checkpoint.open(workdir / section.policy), out)
    printer = GroupPrinter(job, lambda line: print(line, flush=True))
    job.execute(report=lambda done, total, record: printer.add(record) if record else None)
    (workdir / "episodes").mkdir(exist_ok=True)
    for film in sorted((out / "episodes").glob("*.npz")):
        film.rename(workdir / "episodes" / f"{suite}_{film.name}")
    return summarise(list(job.records().values()), shifts_of(suite))["success"]


def _speed(workdir: Path) -> dict[str, Any]:
    """Figures of all phases together."""
    reports = [json.loads(path.read_text()) for path in sorted(workdir.glob("*/done.json"))]
    if not reports:
        raise ValueError(f"--workdir {workdir} has no finished phase; run `python -m train` with the same config first")
    seconds = sum(r["seconds"] for r in reports)
    return {
        "training_seconds": seconds,
        "tokens_per_second": sum(r["tokens"] for r in reports) / seconds,
        "mfu": sum(r["mfu"] * r["seconds"] for r in reports) / seconds,
        "peak_memory_bytes": max(r["peak_memory_bytes"] for r in reports),
    }


def _started(workdir: Path, otherwise: float) -> float:
    """When the run began: what the recording or the first phase left behind first."""
    stamp = workdir / "started"
    return stamp.stat().st_mtime if stamp.exists() else otherwise
