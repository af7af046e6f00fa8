"""Gemma 3 (arXiv 2503.19786): 270m, 1b, 4b, 12b or 27b, trained on from imported weights or from scratch.

    python -m train --config configs/gemma3.py:1b --workdir runs/gemma3-1b \\
        --config.vocabulary.path tokenizer.model --config.sources.text.paths 'corpus/*.jsonl'

Expect the parameter counts of the report's table 1: without embeddings 697.9 M (1b), 3,209.0 M (4b), 10,759.2 M (12b)
and 25,599.7 M (27b); embeddings of 262,144 pieces on top. No weights come with this file and none were trained for it.

4b, 12b and 27b see pictures of 896 x 896 through a SigLIP encoder of 416.9 M, 256 slots each; `4b_text` and so on are
the same without it. As in the report the encoder is not trained on, nor is the projector, since these rows hold text.

Five local layers to one global, and only the global ones remember the whole context: at 128k tokens the 27b keeps
10.4 GiB of keys and values in bfloat16, where 62 global layers would keep 62 GiB.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

SHAKESPEARE = "tests/assets/text/shakespeare.txt"

# layers, model width, feed-forward width, query heads, key/value heads, head width, window, RoPE scale, context
SIZES = {
    "270m": (18, 640, 2048, 4, 1, 256, 512, 1.0, 32_768),
    "1b": (26, 1152, 6912, 4, 1, 256, 512, 1.0, 32_768),
    "4b": (34, 2560, 10_240, 8, 4, 256, 1024, 8.0, 131_072),
    "12b": (48, 3840, 15_360, 16, 8, 256, 1024, 8.0, 131_072),
    "27b": (62, 5376, 21_504, 32, 16, 128, 1024, 8.0, 131_072),
}

SEEING = ("4b", "12b", "27b")
# So400m/14: 64 x 64 patches, averaged 4 x 4
SIGLIP = {
    "kind": "siglip",
    "height": 896,
    "width": 896,
    "patch_size": 14,
    "pool": 4,
    "encoder_dim": 1152,
    "num_layers": 27,
    "hidden_dim": 4304,
    "num_heads": 16,
}


def get_config(variant: str = "1b") -> ConfigDict:
    size = (variant or "1b").removesuffix("_text")
    if size not in SIZES or (variant.endswith("_text") and size not in SEEING):
        names = ", ".join([*SIZES, *(f"{size}_text" for size in SEEING)])
        raise ValueError(f"configs/gemma3.py has no variant {variant!r}; choose one of {names}")
    sees = size in SEEING and not variant.endswith("_text")
    config = ConfigDict({"seed": 0, "mesh": {"data": 1, "fsdp": -1}})
    # Stand-ins: a real run names its own tokenizer and text on the command line.
    config.vocabulary = {"path": "runs/gemma3/vocabulary.model", "paths": (SHAKESPEARE,), "size": 1024}
    config.sources = {"text": {"kind": "text", "paths": (SHAKESPEARE,), "holdout": 0.1}}
    config.models = {"gemma": model(size) if sees else text_model(size)}
    config.train = {"phases": ("pretrain",), "steps": placeholder(int)}
    config.phases = {"pretrain": pretrain(context=SIZES[size][-1])}
    if sees:
        config.phases.pretrain.optimizer.freeze = ("^image/",)
    config.evaluate = {"text": {"source": "text", "teacher": "pretrain", "student": "pretrain"}}
    return config


def model(size: str) -> dict:
    return text_model(size) | ({"image": SIGLIP} if size in SEEING else {})


def text_model(size: str) -> dict:
    layers, width, hidden, heads, kv_heads, head_dim, window, rope_scale, _ = SIZES[size]
    # The 27b scales queries by the width that its heads would have if they shared the model's.
    query_width = width // heads if size == "27b" else head_dim
    attention = {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim, "query_scale": query_width**-0.5}
    return {
        "model_dim": width,
        "num_layers": layers,
        "pattern": ("local",) * 5 + ("global",),
        "ffn": ("dense",),
        "local_attention": attention | {"window": window, "rope_base": 10_000.0},
        "global_attention": attention | {"rope_base": 1_000_000.0, "rope_scale": rope_scale},
        "dense": {"hidden_dim": hidden, "activation": "gelu"},
        "norms": "sandwich",
        "dtype": "bfloat16",
        "remat": "block",
    }


def pretrain(context: int) -> dict:
    return {
        "objective": "next_token",
        "model": "gemma",
        "mixture": {"text": 1.0},
        "pipeline": {"batch_size": 8, "slots": min(context, 32_768)},
        "steps": 10_000,
        "optimizer": {"kind": "adamw", "learning_rate": 1e-4, "warmup": 0.02, "final": 0.1, "weight_decay": 0.1},
    }
