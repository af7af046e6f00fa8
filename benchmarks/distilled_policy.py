"""A distilled policy beside its teacher and beside the same student without one: success and FLOPs of an answer.

    python -m benchmarks.distilled_policy [--episodes 50]

Reads what `configs/distilled_policy.py` and its variant `hard` trained; all three act in the same unseen episodes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np

from benchmarks.machine import describe
from configs.distilled_policy import RUN, get_config
from configs.schema import parse
from data.robots import EpisodesConfig
from eval.config import RobotConfig, completed
from eval.jobs.job import Job
from eval.jobs.summary import paired, rate
from eval.journal import Record
from model.config import ModelConfig
from model.flops import acting_flops, work_of
from model.startup import prepare_kernels
from train.checkpoint import Checkpoint

POLICIES = {"teacher": f"{RUN}/act", "student": f"{RUN}/follow", "hard": f"{RUN}_hard/follow"}


def answer_flops(checkpoint: Checkpoint) -> float:
    """Of one answer to the first observation that the phase trained on."""
    phase = checkpoint.config["phases"][checkpoint.phase]
    config = parse(ModelConfig, checkpoint.config["models"][phase["model"]], "model")
    source = next(iter(phase["mixture"]))
    episodes = parse(EpisodesConfig, checkpoint.config["sources"][source], f"sources.{source}")
    row = jax.tree.map(lambda x: np.asarray(x)[:1], checkpoint.example_batch)
    return acting_flops(config, work_of(row, config), episodes.plan_length)


def records_of(name: str, checkpoint: Checkpoint, episodes: int) -> list[Record]:
    """Outcomes of the policy; episodes that were run before are read."""
    section = parse(RobotConfig, completed(get_config()).evaluate.tabletop.to_dict(), "evaluate.tabletop")
    section = dataclasses.replace(section, policy=checkpoint.phase, episodes=episodes, conditions=("normal",), films=0)
    job = Job("tabletop", section, checkpoint, pathlib.Path(RUN) / "evaluation" / name)
    job.execute()
    return list(job.records().values())


def compared(records: dict[str, list[Record]], flops: dict[str, float]) -> dict[str, Any]:
    """A row for each policy, and what the student keeps of its teacher, costs of it and gains over no teacher."""
    rows = {name: rate(found) | {"answer_mflops": flops[name] / 1e6} for name, found in records.items()}
    share = {name: row["successes"] / row["episodes"] for name, row in rows.items()}
    pairs = {other: paired(records["student"], records[other]) for other in ("teacher", "hard")}
    return {
        "policies": rows,
        "success_over_teacher": share["student"] / share["teacher"] if share["teacher"] else None,
        "flops_over_teacher": flops["student"] / flops["teacher"],
        "student_minus": {other: dataclasses.asdict(found) for other, found in pairs.items() if found is not None},
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distilled_policy", description=(__doc__ or "")[:98])
    parser.add_argument("--episodes", type=int, default=50, help="of each task and arm")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/distilled_policy.json"))
    options = parser.parse_args(arguments)
    prepare_kernels()
    try:
        checkpoints = {name: Checkpoint.open(path) for name, path in POLICIES.items()}
    except ValueError as error:
        sys.exit(f"error: {error}")
    records = {name: records_of(name, checkpoint, options.episodes) for name, checkpoint in checkpoints.items()}
    found = compared(records, {name: answer_flops(checkpoint) for name, checkpoint in checkpoints.items()})
    print(json.dumps(found, indent=1))
    options.out.write_text(json.dumps({"machine": describe(("jax",)), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
