"""A stand-in for Gemini 1.5 Pro (arXiv 2403.05530): a sparse mixture of experts that reads a million tokens at once.

    python -m sharding.plan --config configs/gemini15_proxy.py --topology v5p:16x16x16

Not from the paper, which discloses a sparse mixture-of-experts transformer, contexts of 1M and 10M tokens and pods of
4,096 chips (sections 3 and 6), but no dimensions. These are ours: 136 B parameters of which 28 B serve a token, 5 local
layers to one global, experts in every other layer. Expect 52 GiB of a device's 95, and a step of at least 14.7 s, in
docs/plans.md; nothing was trained with this file.
"""

from ml_collections import ConfigDict

from configs.gemma3 import SHAKESPEARE
from configs.gemma3_long import VOCABULARY

SLOTS = 1_048_576
ROWS = 32  # of a step: 33.6 M tokens


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError(f"configs/gemini15_proxy.py has no variants, got {variant!r}; leave it out")
    config = ConfigDict({"seed": 0, "mesh": {"data": 1, "fsdp": 8, "expert": 4, "context": 64, "tensor": 2}})
    # A stand-in of the right size: a real run names its own tokenizer and text on the command line.
    config.vocabulary = {"path": "runs/gemini15/tokenizer.model", "paths": (SHAKESPEARE,), "size": VOCABULARY}
    config.sources = {"text": {"kind": "text", "paths": (SHAKESPEARE,), "holdout": 0.1}}
    config.models = {"proxy": model()}
    config.train = {"phases": ("lengthen",)}
    optimizer = {"kind": "adamw", "learning_rate": 3e-5, "warmup": 0.02, "final": 0.1, "weight_decay": 0.1}
    config.phases = {
        "lengthen": {
            "objective": "next_token",
            "model": "proxy",
            "mixture": {"text": 1.0},
            "pipeline": {"batch_size": ROWS, "slots": SLOTS},
            "steps": 1_000,
            "optimizer": optimizer,
        }
    }
    return config


def model() -> dict:
    attention = {"num_heads": 48, "num_kv_heads": 8, "head_dim": 128}
    return {
        "model_dim": 6144,
        "num_layers": 48,
        "pattern": ("local",) * 5 + ("global",),
        "ffn": ("dense", "moe"),
        "local_attention": attention | {"window": 4096, "rope_base": 10_000.0},
        "global_attention": attention | {"rope_base": 10_000_000.0, "rope_scale": 8.0},
        "dense": {"hidden_dim": 24_576, "activation": "gelu"},
        "moe": {"num_experts": 32, "top_k": 2, "hidden_dim": 8192, "shared_dim": 8192, "bias_rate": 1e-3},
        "norms": "sandwich",
        "dtype": "bfloat16",
        "remat": "block",
    }
