"""Supervised fine-tuning on conversations: word problems of GSM8K, then adapters alone on those of SVAMP.

    mkdir -p runs/sft/data    # and put GSM8K's train.jsonl and SVAMP.json there
    python -m train --config configs/sft.py
    python -m serving.text runs/sft/adapt    # answers chats with the turns that it was trained on

Expect a model of 0.4M parameters that has learnt the form of the answers and not to reason: held-out answers of GSM8K
at 2.3 nats a token (from 6.9); adapters of 10 % of its parameters then reach 1.1 on those of SVAMP.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

RUN = "runs/sft"


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError(f"configs/sft.py has no variant {variant!r}; leave it out")
    config = ConfigDict({"seed": 0, "mesh": {}})
    gsm8k, svamp = f"{RUN}/data/train.jsonl", f"{RUN}/data/SVAMP.json"
    config.vocabulary = {"path": f"{RUN}/vocabulary.model", "paths": (gsm8k,), "field": "answer", "size": 1024}
    talk = {"kind": "conversations", "holdout": 0.05, "max_left_out": 100}
    config.sources = {
        "gsm8k": talk | {"paths": (gsm8k,), "user": "{question}", "answer": "{answer}"},
        "svamp": talk | {"paths": (svamp,), "user": "{Body}. {Question}", "answer": "#### {Answer}"},
    }
    config.models = {"policy": policy()}
    config.train = {"phases": ("imitate", "adapt"), "log_every": 20, "steps": placeholder(int)}
    config.phases = {"imitate": imitate(), "adapt": adapt()}
    return config


def policy() -> dict:
    attention = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 24}
    return {
        "model_dim": 96,
        "num_layers": 3,
        "pattern": ("local", "local", "global"),
        "local_attention": attention | {"window": 128},
        "global_attention": attention,
        "ffn": ("dense",),
        "dense": {"hidden_dim": 256},
    }


def imitate() -> dict:
    return {
        "objective": "next_token",
        "model": "policy",
        "mixture": {"gsm8k": 1.0},
        "pipeline": {"batch_size": 4, "slots": 640, "window": 1024},
        "steps": 600,
        "optimizer": {"kind": "muon", "learning_rate": 4e-3, "warmup": 0.05, "final": 0.1, "weight_decay": 0.05},
    }


def adapt() -> dict:
    return imitate() | {
        "mixture": {"svamp": 1.0},
        "init": "phase:imitate",
        "lora": {"rank": 8, "alpha": 16.0},
        "steps": 150,
        "optimizer": {"learning_rate": 3e-3, "warmup": 0.1, "final": 0.1},
    }
