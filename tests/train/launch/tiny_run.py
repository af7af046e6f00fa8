"""A run that real processes train in seconds, as a config file beside its data."""

from __future__ import annotations

import json
import pathlib

from tests.train.tiny_config import model, text_config

QUICK = ("--env", "JAX_DISABLE_MOST_OPTIMIZATIONS=1")  # most of the time of a tiny run goes into compilation

_FILE = """\
import json, pathlib
from ml_collections import ConfigDict


def get_config(variant=""):
    return ConfigDict(json.loads(pathlib.Path({path!r}).read_text()), type_safe=False)
"""


def write_config(folder: pathlib.Path, rows: int = 8, steps: int = 3) -> pathlib.Path:
    """One phase `learn` on batches of so many rows, over as many devices as there are."""
    config = text_config(folder)
    learn = config.phases.teach.to_dict() | {"objective": "next_token", "model": "student", "steps": steps}
    learn["pipeline"] = {"batch_size": rows, "slots": 16}
    config.phases = {"learn": learn}
    config.models = {"student": model()}
    config.mesh = {"data": -1}
    config.train = {"phases": ("learn",), "log_every": 1, "checkpoint_every": 1000}
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    (folder / "config.py").write_text(_FILE.format(path=str(folder / "config.json")))
    return folder / "config.py"


def losses(workdir: pathlib.Path) -> list[float]:
    lines = [json.loads(line) for line in (workdir / "learn/metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]
