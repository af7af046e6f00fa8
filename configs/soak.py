"""A small hybrid that learns sums, for `python -m train.soak` to break on purpose.

    python -m train.soak --out runs/soak/report.json    # --config configs/soak.py is the default

Expect 20 faults, each noticed within a minute, and weights that are bit-identical to those of the same run left alone.
Everything that a restart must bring back is in it: a recurrent and a global layer, packed rows, an average of the
weights, evaluations, a learning rate that changes with every step.
"""

from ml_collections import ConfigDict

RUN = "runs/soak"
SHAKESPEARE = "tests/assets/text/shakespeare.txt"  # a vocabulary needs some text; digits are spelled in bytes


def get_config() -> ConfigDict:
    config = ConfigDict({"seed": 0, "mesh": {}})
    config.vocabulary = {"path": f"{RUN}/vocabulary.model", "paths": (SHAKESPEARE,), "size": 352}
    config.sources = {"sums": {"kind": "arithmetic", "num_problems": 4000, "operations": "+", "holdout": 0.02}}
    config.models = {
        "hybrid": {
            "model_dim": 32,
            "num_layers": 2,
            "pattern": ("recurrent", "global"),
            "recurrent": {"num_states": 8},
            "global_attention": {"num_heads": 4, "num_kv_heads": 4, "head_dim": 8},
            "ffn": ("dense",),
            "dense": {"hidden_dim": 64},
        }
    }
    config.phases = {
        "sums": {
            "objective": "next_token",
            "model": "hybrid",
            "mixture": {"sums": 1.0},
            "pipeline": {"batch_size": 8, "slots": 128},
            "steps": 400,
            "optimizer": {"learning_rate": 3e-3, "warmup": 0.05, "final": 0.1},
            "ema": 0.98,
            "eval_every": 100,
        }
    }
    config.train = {"phases": ("sums",), "log_every": 5, "checkpoint_every": 10, "watchdog_seconds": 10.0}
    return config
