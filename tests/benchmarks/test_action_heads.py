"""The heads that are compared are configs of one backbone that training accepts, and differ in the head alone."""

import argparse

import numpy as np
import pytest

from benchmarks.action_heads import ARM, FAST_CODES, HEADS, config_of, line
from configs import demo
from data.fast import Fast
from train.build import check


@pytest.fixture
def options(tmp_path):
    rng = np.random.default_rng(0)
    chunks = [np.cumsum(rng.normal(0, 0.3, (demo.CHUNK, 7)), axis=0) for _ in range(300)]
    Fast.train(chunks, demo.CHUNK, FAST_CODES, 1.0, 10.0).save(tmp_path / "fast.json")
    return argparse.Namespace(workdir=tmp_path, backbone="runs/demo/distil", steps=7, batch=4)


def test_every_head_is_a_config_that_training_accepts_on_the_same_backbone_and_budget(options):
    configs = {head: config_of(head, options).to_dict() for head in HEADS}
    for head in HEADS:
        check(config_of(head, options))
    apart = {"bins", "flow", "l1", "num_other_codes"}
    models = [{k: v for k, v in c["models"]["policy"].items() if k not in apart} for c in configs.values()]
    assert all(model == models[0] for model in models)
    assert models[0]["model_dim"] == demo.student()["model_dim"]
    budgets = {(c["phases"]["act"]["steps"], c["phases"]["act"]["pipeline"]["batch_size"]) for c in configs.values()}
    assert budgets == {(7, 4)}
    objectives = {head: config["phases"]["act"]["objective"] for head, config in configs.items()}
    tokens = {"mu_law": "next_token", "fast": "next_token"}
    assert objectives == {"flow": "flow", "bins": "bins", "l1": "l1"} | tokens
    assert configs["mu_law"]["sources"][ARM]["num_bins"] == 1024


def test_a_line_of_the_table_names_error_success_interval_and_cost():
    found = {"error_rad": 0.0521, "successes": 3, "episodes": 4, "low": 0.3, "high": 0.954, "answer_ms": 12.345}
    assert line("flow", found) == "flow     off by 0.0521 rad, 3 of 4 (30% .. 95%), 12.3 ms an answer"
