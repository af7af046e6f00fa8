"""Three robots with one set of weights, beside each robot alone: success by task, from evaluations that were run.

python -m benchmarks.robots    # after the commands of configs/robots.py
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from benchmarks import machine
from configs.robots import ROBOTS, RUN
from eval.wilson import wilson_interval

ROBOT_OF = {folder: robot for robot, (folder, *_) in ROBOTS.items()}  # the suites are named as the datasets are
PACKAGES = ("jax", "jaxlib", "flax", "mujoco", "metaworld", "gymnasium-robotics")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robots", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=pathlib.Path, default=pathlib.Path(RUN), help="workdir of the mixture")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/robots.json"))
    options = parser.parse_args(arguments)
    record = {"machine": machine.describe(PACKAGES), **gathered(options.run)}
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(lines(record)))


def gathered(run: pathlib.Path) -> dict[str, Any]:
    """By suite: evaluations of one set of weights (`together`) and, where that was trained, of the robot `alone`.

    An evaluation is a folder whose name begins with its suite's. Raises ValueError where there is none.
    """
    suites = {}
    for suite, robot in ROBOT_OF.items():
        runs = {"together": run, "alone": run / "alone" / robot}
        found = {name: [judged(path) for path in evaluations(folder, suite)] for name, folder in runs.items()}
        if found := {name: each for name, each in found.items() if each}:
            suites[suite] = found
    if not suites:
        raise ValueError(f"{run}/evaluations has no summary.json; run the commands of configs/robots.py")
    return {"suites": suites}


def evaluations(run: pathlib.Path, suite: str) -> list[pathlib.Path]:
    return sorted(run.glob(f"evaluations/{suite}*/summary.json"))


def judged(path: pathlib.Path) -> dict[str, Any]:
    """What one evaluation came to under normal conditions."""
    summary = json.loads(path.read_text())
    rows = [row for row in summary["success"] if row["condition"] == "normal"]
    keys = ("task", "successes", "episodes", "low", "high")
    successes, episodes = (sum(row[key] for row in rows) for key in ("successes", "episodes"))
    low, high = wilson_interval(successes, episodes)
    overall = {"successes": successes, "episodes": episodes, "rate": successes / episodes, "low": low, "high": high}
    settings = {key: summary["settings"][key] for key in ("execute", "wording", "image_size")}
    return {"settings": settings, "overall": overall, "tasks": [{key: row[key] for key in keys} for row in rows]}


def lines(record: dict[str, Any]) -> list[str]:
    """A table for people."""
    found = []
    for suite, runs in record["suites"].items():
        for name, run in ((name, run) for name, each in runs.items() for run in each):
            rows = [{"task": "all", **run["overall"]}, *run["tasks"]]
            found += [
                f"{suite:10} {name:9} {run['settings']['wording']:6} {row['task']:24} {row['successes']:3} of "
                f"{row['episodes']:3} ({100 * row['low']:.0f} to {100 * row['high']:.0f} %)"
                for row in rows
            ]
    return found


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
