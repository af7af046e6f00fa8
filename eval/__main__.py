"""`python -m eval --config C --workdir W`: judges the phases of a finished run; writes `summary.json` and episodes.

What is judged is the config's `evaluate` section: held-out text against a trigram model, and closed-loop robot tasks.
With `--suite` in place of a config: text evaluations of any checkpoint, see `eval.suites.command`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from configs import command
from configs.schema import parse, to_plain
from eval import tabletop, text
from eval.config import EvaluateConfig, completed
from eval.suites import command as suites
from model.startup import prepare_kernels
from serving.generate import generate
from serving.model import LoadedModel
from serving.policy import Policy
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
        _write(workdir / "samples.json", samples)
    if config.tabletop is not None:
        summary["success"] = _tabletop(config.tabletop, workdir)
    summary["evaluation_seconds"] = time.time() - start
    summary["seconds"] = time.time() - _started(workdir, start)
    summary["versions"] = {
        p: metadata.version(p) for p in ("jax", "flax", "optax", "orbax-checkpoint", "mujoco", "numpy")
    }
    _write(workdir / "summary.json", summary)
    _write(workdir / "config.json", whole)
    return summary


def _text(config, whole: dict[str, Any], workdir: Path) -> tuple[dict[str, float], list[dict[str, str]]]:
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


def _tabletop(config, workdir: Path) -> list[dict[str, Any]]:
    checkpoint = Checkpoint.open(workdir / config.policy)
    policy = Policy(checkpoint, batch_size=config.batch_size)
    untrained = None
    if "untrained" in config.conditions:
        untrained = Policy(checkpoint, batch_size=config.batch_size, untrained=True)

    def report(record: dict[str, Any]) -> None:
        rate = 100 * record["successes"] / record["episodes"]
        print(
            f"{record['task']:6} {record['arm']:6} {record['condition']:21} {rate:5.1f} % "
            f"[{100 * record['low']:.0f}, {100 * record['high']:.0f}] of {record['episodes']}",
            flush=True,
        )

    records, films = tabletop.evaluate(config, policy, untrained, report)
    folder = workdir / "episodes"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.npz"):
        old.unlink()
    for index, film in enumerate(films):
        np.savez_compressed(folder / f"{film.task}_{film.arm}_{index:03d}.npz", **vars(film))
    return records


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


def _write(path: Path, content: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    if any(argument.split("=")[0] == "--suite" for argument in sys.argv[1:]):
        suites.main()
    else:
        command.run(main, completed)
