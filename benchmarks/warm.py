"""Reward models on pairs of which a quarter is labelled wrongly: each alone, and the average of their weights.

    python -m benchmarks.warm --out benchmarks/results/warm.json

Runs configs/warm.py where it is not finished. Figures are of held-out pairs with right labels.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
from typing import Any

import numpy as np

from benchmarks.machine import describe
from configs.warm import RUN, get_config
from model.startup import prepare_kernels
from train.average import average
from train.build import build_phase
from train.checkpoint import Checkpoint
from train.phases import run

LARGEST, NUM_PAIRS, MEMBERS = 40, 4000, 4


def write_data(folder: pathlib.Path, seed: int = 0) -> None:
    """`answers.jsonl`: every sum; `pairs.jsonl`: sums with the answer and one that is off by 5 to 29."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    sums = [(a, b) for a in range(LARGEST) for b in range(LARGEST)]
    answers = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a, b in sums]

    def wrong(right: int) -> int:
        by = int(rng.integers(5, 30))
        return right - by if right >= by and rng.random() < 0.5 else right + by

    chosen = [sums[i] for i in rng.integers(len(sums), size=NUM_PAIRS)]
    pairs = [{"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": str(wrong(a + b))} for a, b in chosen]
    for name, records in (("answers", answers), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def measure(members: int) -> dict[str, Any]:
    workdir = pathlib.Path(RUN)
    if not (workdir / "data").is_dir():
        write_data(workdir / "data")
    start = run(get_config(), workdir / "start", build_phase)
    for seed in range(members):
        config = get_config("member")
        config.seed = seed + 1
        run(config, workdir / f"member{seed}", build_phase)
    checkpoints = [Checkpoint.open(workdir / f"member{seed}" / "judge") for seed in range(members)]
    out = workdir / "average"
    shutil.rmtree(out, ignore_errors=True)  # of an earlier measurement
    found = list(average(checkpoints, str(out), evaluate=True).values())
    return {
        "machine": describe(("jax",)),
        "wrong labels": 0.25,
        "start": start["begin"]["evaluation"],
        "members": found[:-1],
        "average": found[-1],
        "best member": max(figures["accuracy/preference"] for figures in found[:-1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--members", type=int, default=MEMBERS)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/warm.json"))
    options = parser.parse_args()
    prepare_kernels()
    found = measure(options.members)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
