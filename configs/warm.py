"""Reward models from wrong labels: one start, several models in another order of the data, and their average (WARM).

    python -m benchmarks.warm    # writes the pairs, does the following, measures; a few minutes on two CPU cores
    python -m train --config configs/warm.py --workdir runs/warm/start
    python -m train --config configs/warm.py:member --config.seed=1 --workdir runs/warm/member0    # and others
    python -m train.average runs/warm/member0/judge runs/warm/member1/judge --out runs/warm/average --evaluate

A quarter of the training pairs prefers the wrong sum; held-out pairs are labelled rightly. Expect of four members that
they judge 87 to 89 % of the 1,201 held-out pairs as labelled, and 91 % of the average. Members that begin at the probe,
without the common `begin`, lie further apart: there the average had 90 %, and the members 85 to 91 %.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

RUN = "runs/warm"
SHAKESPEARE = "tests/assets/text/shakespeare.txt"  # digits are spelled in bytes, so any text will do


def get_config(variant: str = "") -> ConfigDict:
    """Variants: "" trains the start, "member" one reward model from it; a member is one `--config.seed`."""
    if variant not in ("", "member"):
        raise ValueError(f"configs/warm.py has no variant {variant!r}; allowed: none, 'member'")
    config = ConfigDict({"seed": 0, "mesh": {}})
    config.vocabulary = {"path": f"{RUN}/vocabulary.model", "paths": (SHAKESPEARE,), "size": 352}
    config.sources = {
        "answers": {
            "kind": "conversations",
            "paths": (f"{RUN}/data/answers.jsonl",),
            "user": "{question}",
            "answer": "{answer}",
            "holdout": 0.05,
        },
        "pairs": {"kind": "preferences", "paths": (f"{RUN}/data/pairs.jsonl",), "flip": 0.25, "holdout": 0.3},
    }
    config.models = {"policy": backbone(), "judge": backbone() | {"reward": True}}
    phases = {"judge": judge()} if variant else {"imitate": imitate(), "probe": probe(), "begin": begin()}
    config.phases = phases
    config.train = {"phases": tuple(phases), "log_every": 20, "steps": placeholder(int)}
    return config


def backbone() -> dict:
    return {
        "model_dim": 64,
        "num_layers": 3,
        "pattern": ("global",),
        "global_attention": {"num_heads": 4, "num_kv_heads": 4, "head_dim": 16},
        "ffn": ("dense",),
        "dense": {"hidden_dim": 128},
    }


def imitate() -> dict:
    """Every sum with its answer: what the reward models begin with."""
    return {
        "objective": "next_token",
        "model": "policy",
        "mixture": {"answers": 1.0},
        "pipeline": {"batch_size": 16, "slots": 128, "window": 1024},
        "steps": 400,
        "optimizer": {"learning_rate": 4e-3, "warmup": 0.05, "final": 0.05, "b2": 0.98},
    }


def probe() -> dict:
    """The head alone, so that all members begin with one that fits (arXiv 2401.12187, section 3)."""
    return {
        "objective": "reward",
        "model": "judge",
        "mixture": {"pairs": 1.0},
        "pipeline": {"batch_size": 8, "slots": 128, "window": 1024},
        "steps": 60,
        "init": "phase:imitate",
        "optimizer": {"learning_rate": 1e-2, "warmup": 0.1, "freeze": ("^(tokens|stack|norm)/",)},
    }


def begin() -> dict:
    """Far enough that members end in one valley, where a straight line between them leads over good models."""
    return probe() | {
        "steps": 250,
        "init": "phase:probe",
        "optimizer": {"learning_rate": 2e-3, "schedule": "constant", "warmup": 0.1, "b2": 0.98},
    }


def judge() -> dict:
    return begin() | {
        "steps": 300,
        "init": f"path:{RUN}/start/begin",
        "optimizer": {"learning_rate": 2e-3, "final": 0.1, "b2": 0.98},
        "eval_every": 100,
    }
