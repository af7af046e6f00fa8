"""Success on the tabletop at 50 Hz with and without a delay between seeing and acting; see `configs/split.py`.

    python -m benchmarks.latency --record runs/split/data            # demonstrations for the config
    python -m benchmarks.latency --checkpoint runs/split/decode [--latency 0.25] [--episodes 20]

A single action for each observation, chunks played back, chunks that go on from the running one (guided, or with a
clean prefix), and each of them under a local decoder: one checkpoint, one set of seeds, one simulated clock. Then the
decoder's time for a tick, measured while the backbone runs on its own thread.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import time
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.latency.clock import Mode, Worlds, run
from benchmarks.latency.live import live
from benchmarks.latency.record import record
from eval.envs.tabletop import ARMS, TASKS
from eval.wilson import wilson_interval
from serving.split_policy import SplitPolicy
from train.checkpoint import Checkpoint

CONTROL_HZ = 50
SPLIT_BAR, SINGLE_BAR, DECODER_BAR_MS = 0.7, 0.4, 20.0
MODES = {  # name -> (what happens in between, method of real-time chunking)
    "single action": (Mode(single=True), None),
    "chunks": (Mode(local=False), None),
    "chunks, guided": (Mode(local=False), "guided"),
    "chunks, prefix": (Mode(local=False), "prefix"),
    "decoder": (Mode(), None),
    "decoder, guided": (Mode(), "guided"),
    "decoder, prefix": (Mode(), "prefix"),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--record", type=pathlib.Path, help="only record demonstrations, one dataset an arm, there")
    parser.add_argument("--checkpoint", help="a phase with a local decoder")
    parser.add_argument("--latency", type=float, default=0.25, help="seconds")
    parser.add_argument("--episodes", type=int, help="of each arm and task; 20, and 40 to record")
    parser.add_argument("--tasks", nargs="+", default=["reach", "push"], choices=list(TASKS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--seconds", type=float, default=20.0, help="of the measurement against the clock")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/latency.json"))
    options = parser.parse_args(arguments)
    if (options.record is None) == (options.checkpoint is None):
        parser.error("give --record or --checkpoint")
    if options.record is not None:
        record(options.record, options.arms, options.tasks, options.episodes or 40, CONTROL_HZ)
        return
    measured = measure(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(measured, indent=1) + "\n")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    checkpoint, episodes = Checkpoint.open(options.checkpoint), options.episodes or 20
    delay, size = math.ceil(options.latency * CONTROL_HZ), episodes * len(options.arms)
    rows = []
    for name in options.modes:
        mode, method = MODES[name]
        for steps in (0, delay) if name in ("chunks", "decoder") else (delay,):
            far = _policy(checkpoint, steps, method, size)
            for task in options.tasks:
                began = time.perf_counter()
                outcome = run(Worlds(task, options.arms, episodes, CONTROL_HZ), far, mode, steps)
                rows.append(_row(name, task, steps, outcome) | {"measured_in_s": round(time.perf_counter() - began, 1)})
                print(_line(rows[-1]), flush=True)
    method = next((MODES[name][1] for name in options.modes if MODES[name][1]), None)
    near = _policy(checkpoint, delay, method, 1)
    against_clock = live(near, Worlds("reach", options.arms[:1], 1, CONTROL_HZ), options.latency, options.seconds, 50)
    print(f"decoder against the clock: {against_clock}")
    return {
        "command": f"python -m benchmarks.latency --checkpoint {options.checkpoint} --episodes {episodes}",
        "machine": machine.describe(("jax", "jaxlib", "flax", "mujoco", "numpy")),
        "latency_seconds": options.latency,
        "control_hz": CONTROL_HZ,
        "rows": rows,
        "clock": against_clock,
        "bars": _bars(rows, delay, against_clock),
    }


def _policy(checkpoint: Checkpoint, steps: int, method: Any, size: int) -> SplitPolicy:
    config = checkpoint.config["models"][checkpoint.config["phases"][checkpoint.phase]["model"]]
    every = (config.get("local_decoder") or {}).get("steps", 1)
    return SplitPolicy(checkpoint, batch_size=size, delay=math.ceil(steps / every), method=method)


def _row(name: str, task: str, delay: int, outcome: Any) -> dict[str, Any]:
    successes, episodes = int(outcome.success.sum()), len(outcome.success)
    low, high = wilson_interval(successes, episodes)
    took = outcome.steps[outcome.success]
    return {
        "mode": name,
        "task": task,
        "delay_steps": delay,
        "episodes": episodes,
        "success": successes / episodes,
        "low": low,
        "high": high,
        "seconds_to_success": round(float(took.mean()) / CONTROL_HZ, 2) if len(took) else None,
        "gap_mrad": round(1000 * float(np.mean(outcome.gaps)), 2) if outcome.gaps else None,
    }


def _line(row: dict[str, Any]) -> str:
    interval = f"[{100 * row['low']:.0f}, {100 * row['high']:.0f}]"
    return (
        f"{row['mode']:16} {row['task']:6} {1000 * row['delay_steps'] // CONTROL_HZ:4} ms  "
        f"{100 * row['success']:5.1f} % {interval:9} of {row['episodes']}, {row['seconds_to_success']} s, "
        f"{row['gap_mrad']} mrad at borders"
    )


def _bars(rows: list[dict[str, Any]], delay: int, against_clock: dict[str, Any]) -> dict[str, Any]:
    """Mean success over tasks with the delay: the better mode of decoder and real-time chunking, and single actions."""

    def mean(name: str) -> float | None:
        rates = [row["success"] for row in rows if row["mode"] == name and row["delay_steps"] == delay]
        return sum(rates) / len(rates) if rates else None

    split = [rate for name in ("decoder, guided", "decoder, prefix") if (rate := mean(name)) is not None]
    best, single, p95 = max(split, default=None), mean("single action"), against_clock["act_ms"]["p95"]
    return {
        "split": {"success": best, "bar": SPLIT_BAR, "met": best is not None and best >= SPLIT_BAR},
        "single": {"success": single, "bar": SINGLE_BAR, "met": single is not None and single <= SINGLE_BAR},
        "decoder_p95_ms": {"measured": p95, "bar": DECODER_BAR_MS, "met": p95 < DECODER_BAR_MS},
    }


if __name__ == "__main__":
    main()
