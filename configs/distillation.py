"""A teacher, and four students of one size that differ in what they learn from: labels, the teacher, and two stores.

    python -m benchmarks.distillation          # all of it and a table, or by hand:
    python -m train --config configs/distillation.py --phase teach
    python -m train.distill_store --config configs/distillation.py --phase sampled --teacher teach --entries 32
    python -m train --config configs/distillation.py --phase sampled

Expect, in nats a token on held-out text: the teacher 3.11, the student of labels alone 3.67, of the teacher 3.59, of 32
stored draws the same to within 0.01, and of the 32 largest entries 3.61: what they leave out is missed.
"""

from ml_collections import ConfigDict

RUN = "runs/distillation"
SHAKESPEARE = "tests/assets/text/shakespeare.txt"


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: another text file to learn from, in place of Shakespeare."""
    text = variant or SHAKESPEARE
    config = ConfigDict({"seed": 0, "mesh": {}})
    config.vocabulary = {"path": f"{RUN}/vocabulary.model", "paths": (text,), "size": 512, "holdout": 0.1}
    config.sources = {"text": {"kind": "text", "paths": (text,), "holdout": 0.1}}
    config.models = {"teacher": model(128, 3, 384), "student": model(64, 2, 128)}
    students = {
        "hard": {"objective": "next_token"},
        "online": {"objective": "distill", "teacher": "teach"},
        "sampled": {"objective": "distill", "teacher": f"store:{RUN}/stores/sampled"},
        "topk": {"objective": "distill", "teacher": f"store:{RUN}/stores/topk"},
    }
    config.phases = {"teach": phase("teacher", 600) | {"objective": "next_token"}}
    config.phases.update({name: phase("student", 400) | changes for name, changes in students.items()})
    config.train = {"phases": ("teach", *students), "log_every": 50, "checkpoint_every": 1000}
    return config


def model(width: int, num_layers: int, hidden: int) -> dict:
    attention = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32}
    return {
        "model_dim": width,
        "num_layers": num_layers,
        "pattern": ("global",),
        "ffn": ("dense",),
        "global_attention": attention,
        "dense": {"hidden_dim": hidden},
    }


def phase(name: str, steps: int) -> dict:
    """The same rows in the same order for all."""
    optimizer = {"kind": "muon", "learning_rate": 3e-3, "warmup": 0.05, "final": 0.1, "b2": 0.98, "weight_decay": 0.05}
    pipeline = {"batch_size": 8, "slots": 256}
    return {"model": name, "mixture": {"text": 1.0}, "pipeline": pipeline, "steps": steps, "optimizer": optimizer}
