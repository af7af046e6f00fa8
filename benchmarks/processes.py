"""What several processes cost: the step of two processes of one device against one process of two, on one machine.

    python -m benchmarks.processes [--rows 8 32 128] [--steps 40] [--rounds 2]

Trains the model below by `python -m train` in turns, with data parallelism over two virtual CPU devices, on batches of
several sizes: what a step's messages cost does not depend on its tokens. Writes benchmarks/results/processes.json: of
each size the median over stretches of ten steps of each layout, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
from typing import Any

from ml_collections import ConfigDict

from benchmarks.machine import describe
from data.vocabulary import Vocabulary
from tests.train import tiny_config
from train.goodput.account import attempts_of
from train.launch.local import Processes

LAYOUTS = {"one process of two devices": (1, 2), "two processes of one device": (2, 1)}
STRETCH, SLOTS = 10, 256


def get_config(folder: str) -> ConfigDict:
    """A language model of two layers of width 256 on what `prepare` wrote, data parallel over all devices."""
    attention = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 64}
    model = tiny_config.model(model_dim=256, global_attention=attention, dense={"hidden_dim": 1024})
    phase = {"objective": "next_token", "model": "lm", "mixture": {"text": 1.0}, "optimizer": tiny_config.OPTIMIZER}
    return ConfigDict(
        {
            "seed": 0,
            "mesh": {"data": -1},
            "vocabulary": {"path": f"{folder}/vocabulary.model"},
            "sources": {"text": {"kind": "text", "paths": (f"{folder}/text.txt",), "separator": "\n\n"}},
            "models": {"lm": model},
            "phases": {"train": {**phase, "pipeline": {"batch_size": 2, "slots": SLOTS}, "steps": 1000}},
            "train": {"phases": ("train",), "steps": None, "checkpoint_every": 10**6, "log_every": STRETCH},
        },
        type_safe=False,
    )


def prepare(folder: pathlib.Path) -> None:
    """A text and its vocabulary."""
    text = tiny_config.TEXT.read_text()
    (folder / "text.txt").write_text(text)
    Vocabulary.train([text], tiny_config.NUM_PIECES).save(folder / "vocabulary.model")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=(8, 32, 128), help="of a batch, over both devices")
    parser.add_argument("--steps", type=int, default=40, help="of each run; the first ten are left out")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each layout, in turns")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/processes.json"))
    options = parser.parse_args(arguments)
    record: dict[str, Any] = {"machine": describe(("jax", "jaxlib")), "steps": options.steps, "sizes": []}
    with tempfile.TemporaryDirectory() as folder:
        prepare(pathlib.Path(folder))
        for rows in options.rows:
            record["sizes"].append(compare(pathlib.Path(folder), rows, options.steps, options.rounds))
    record["load_average"] = os.getloadavg()[1]
    print(json.dumps(record, indent=1))
    options.out.write_text(json.dumps(record, indent=1) + "\n")


def compare(folder: pathlib.Path, rows: int, steps: int, rounds: int) -> dict[str, Any]:
    """Both layouts in turns at one size of batch: seconds a step, and what the processes cost."""
    found: dict[str, list[float]] = {name: [] for name in LAYOUTS}
    for number in range(rounds):
        for name, layout in LAYOUTS.items():
            found[name] += step_seconds(folder, folder / f"{rows}-{number}-{layout[0]}", *layout, rows, steps)
    one, two = (statistics.median(found[name]) for name in LAYOUTS)
    tokens = rows * SLOTS // 2
    return {"tokens_per_device": tokens, "step_seconds": [one, two], "ratio": two / one, "stretches": found}


def step_seconds(
    folder: pathlib.Path, workdir: pathlib.Path, count: int, devices: int, rows: int, steps: int
) -> list[float]:
    """Seconds a step, of each stretch of ten steps but the first. Raises RuntimeError with the logs where it fails."""
    command = [sys.executable, "-m", "train", "--config", f"{__file__}:{folder}", "--workdir", str(workdir)]
    command += [f"--config.train.steps={steps}", f"--config.phases.train.pipeline.batch_size={rows}"]
    with Processes(command, count, workdir, devices=devices) as processes:
        processes.start()
        codes = processes.wait()
        if any(codes):
            raise RuntimeError("\n".join(processes.log(rank).read_text() for rank in range(count)))
    (attempt,) = attempts_of(workdir / "train" / "events" / "0.jsonl")
    stretches = [line for line in attempt.lines if line["kind"] == "steps"][1:]
    return [line["seconds"] / (line["last"] - line["first"] + 1) for line in stretches]


if __name__ == "__main__":
    main()
