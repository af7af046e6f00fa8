"""Success of the scripted experts on every task of every suite, and what a frame costs.

    python -m benchmarks.simulators --episodes 10 --out benchmarks/results/simulators.json

Rates are by CPU time of one process, so that they hold on a busy machine: `steps` with the expert and without pictures,
`frames` with the expert and the suite's first camera at its usual size.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import time
from typing import Any

from benchmarks.machine import describe
from eval.envs.environment import Environment
from eval.envs.registry import SUITES, make

PACKAGES = ("mujoco", "metaworld", "ogbench", "gymnasium-robotics", "gym-aloha", "dm-control", "numpy")
FIRST_SEED = 1000


def episode(env: Environment, seed: int, draw: bool) -> tuple[int, bool]:
    """Steps until success or the end, and whether it was a success."""
    env.reset(seed)
    for step in range(1, env.max_steps + 1):
        if draw:
            env.observe()
        env.step(env.expert())
        if env.success:
            return step, True
    return env.max_steps, False


def measure(suite: str, task: str, robot: str, episodes: int) -> dict[str, Any]:
    """Successes, steps and rates of one task."""
    blind, seen = make(suite, task, robot, cameras=()), make(suite, task, robot)
    began = time.process_time()
    runs = [episode(blind, FIRST_SEED + i, draw=False) for i in range(episodes)]
    seconds = time.process_time() - began
    seen.reset(0)
    seen.observe()  # uploads meshes and textures
    began = time.process_time()
    frames, _ = episode(seen, FIRST_SEED, draw=True)
    drawn = time.process_time() - began
    blind.close()
    seen.close()
    steps = [steps for steps, _ in runs]
    return {
        "successes": sum(success for _, success in runs),
        "episodes": episodes,
        "median_steps": statistics.median(steps),
        "max_steps": max(steps),
        "steps_per_cpu_second": round(sum(steps) / seconds),
        "frames_per_cpu_second": round(frames / drawn),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Success and speed of the scripted experts.")
    parser.add_argument("--suites", nargs="+", default=list(SUITES), choices=list(SUITES))
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--out", help="where to write the figures as JSON")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": describe(PACKAGES), "tasks": {}}
    for name in options.suites:
        for robot in SUITES[name].robots:
            for task in SUITES[name].tasks:
                figures = measure(name, task, robot, options.episodes)
                results["tasks"][f"{name}/{robot}/{task}"] = figures
                print(f"{name}/{robot}/{task}: {figures}", flush=True)
        if options.out:
            pathlib.Path(options.out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
