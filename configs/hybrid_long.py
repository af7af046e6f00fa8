"""Recurrent, local and a few global layers on rows of up to 10 million slots.

    python -m sharding.plan --config configs/hybrid_long.py:10m --topology v5p:16x16x16
    python -m sharding.plan --config configs/hybrid_long.py:1m --topology v5p:4x8x16

Variants: 1m and 10m, the same model with the same slots on each device: the context axis has ten times the shards for
ten times the row, up to rounding to powers of two. Recurrent layers hand one state from shard to shard and local ones a
window of keys, so only the global layers' ring has more to do. `flat_1m` and `flat_10m` leave the global layers out.
Expect 24 to 26 GiB of a device at either length, with the ring and without: docs/plans.md. Nothing was trained with
this file.
"""

from ml_collections import ConfigDict

from configs.gemma3 import SHAKESPEARE
from configs.gemma3_long import VOCABULARY

# slots of a row, shards of it; 10,240 slots on each device
ROWS = {"1m": (1_310_720, 128), "10m": (10_485_760, 1024)}


def get_config(variant: str = "10m") -> ConfigDict:
    flat, length = variant.startswith("flat_"), variant.removeprefix("flat_")
    if length not in ROWS:
        raise ValueError(f"configs/hybrid_long.py has no variant {variant!r}; choose 1m, 10m, flat_1m or flat_10m")
    slots, shards = ROWS[length]
    config = ConfigDict({"seed": 0, "mesh": {"data": 1, "fsdp": 4, "context": shards}})
    # A stand-in of the right size: a real run names its own tokenizer and text on the command line.
    config.vocabulary = {"path": "runs/hybrid/tokenizer.model", "paths": (SHAKESPEARE,), "size": VOCABULARY}
    config.sources = {"text": {"kind": "text", "paths": (SHAKESPEARE,), "holdout": 0.1}}
    config.models = {"hybrid": model(last="local" if flat else "global")}
    config.train = {"phases": ("lengthen",)}
    optimizer = {"kind": "adamw", "learning_rate": 3e-5, "warmup": 0.02, "final": 0.1, "weight_decay": 0.1}
    config.phases = {
        "lengthen": {
            "objective": "next_token",
            "model": "hybrid",
            "mixture": {"text": 1.0},
            "pipeline": {"batch_size": 4, "slots": slots},
            "steps": 1_000,
            "optimizer": optimizer,
        }
    }
    return config


def model(last: str) -> dict:
    """7.1 B parameters: four blocks of three recurrent layers, a local one, and so on; every eighth layer is `last`."""
    attention = {"num_heads": 16, "num_kv_heads": 8, "head_dim": 256}
    sections = {
        "model_dim": 4096,
        "num_layers": 24,
        "pattern": ("recurrent", "local", "recurrent", last),
        "ffn": ("dense",),
        "local_attention": attention | {"window": 2048, "rope_base": 10_000.0},
        "recurrent": {"num_states": 256},
        "dense": {"hidden_dim": 14_336, "activation": "gelu"},
        "norms": "sandwich",
        "dtype": "bfloat16",
        "remat": "block",
    }
    if last == "global":
        sections["global_attention"] = attention | {"rope_base": 10_000_000.0, "rope_scale": 64.0}
    return sections
