"""The models that are trained, at full size and small enough for a CPU, and the work of one step."""

from __future__ import annotations

import dataclasses
import types
from typing import Literal

import numpy as np

from model.config import AttentionConfig, DenseConfig, ModelConfig, MoEConfig, RecurrentConfig
from model.flops import Work, train_flops, work_of

Scale = Literal["full", "small"]
Name = Literal["dense", "hybrid"]


@dataclasses.dataclass(frozen=True)
class Shape:
    config: ModelConfig
    vocab_size: int


def shape(name: Name, scale: Scale) -> Shape:
    """`dense`: Gemma 3 1B (arXiv 2503.19786). `hybrid`: S5, local and global layers, every feed-forward a mixture."""
    return {"dense": _dense, "hybrid": _hybrid}[name](scale)


def _dense(scale: Scale) -> Shape:
    D, F, layers, window = (1152, 6912, 26, 512) if scale == "full" else (32, 64, 2, 16)
    heads = {"num_heads": 4, "num_kv_heads": 1, "head_dim": 256 if scale == "full" else 16}
    config = ModelConfig(
        model_dim=D,
        num_layers=layers,
        pattern=("local",) * (5 if scale == "full" else 1) + ("global",),
        ffn=("dense",),
        local_attention=AttentionConfig(**heads, window=window),
        global_attention=AttentionConfig(**heads, rope_base=1_000_000.0),
        dense=DenseConfig(F),
        norms="sandwich",
        dtype="bfloat16",
    )
    return Shape(config, 262_144 if scale == "full" else 256)


def _hybrid(scale: Scale) -> Shape:
    """3.8B parameters, 1.0B of them active with the head: 32 experts, 4 of them and a shared one for each token."""
    D, N, F, layers = (2048, 1024, 1024, 16) if scale == "full" else (32, 128, 32, 4)
    heads = {"num_heads": 16, "num_kv_heads": 8, "head_dim": 128} if scale == "full" else {
        "num_heads": 2, "num_kv_heads": 1, "head_dim": 16,
    }  # fmt: skip
    experts, top_k = (32, 4) if scale == "full" else (4, 2)
    config = ModelConfig(
        model_dim=D,
        num_layers=layers,
        pattern=("recurrent", "local", "recurrent", "global"),
        ffn=("moe",),
        local_attention=AttentionConfig(**heads, window=1024 if scale == "full" else 16),
        global_attention=AttentionConfig(**heads, rope_base=1_000_000.0),
        recurrent=RecurrentConfig(N),
        moe=MoEConfig(experts, top_k, F, shared_dim=F),
        dtype="bfloat16",
    )
    return Shape(config, 131_072 if scale == "full" else 256)


def rows(tokens: int, tokens_BT: object | None = None) -> types.SimpleNamespace:
    """One row that is one causal document: the fields of a batch that the model and the FLOP count read."""
    ones_BT = np.ones((1, tokens), np.int32)
    return types.SimpleNamespace(
        tokens=tokens_BT,
        segment_ids=ones_BT,
        positions=np.arange(tokens, dtype=np.int32)[None],
        span_ids=0 * ones_BT,
        media={},
        values={},
    )


def flops(shape: Shape, tokens: int, remat: str) -> tuple[float, float]:
    """(model, hardware) FLOPs of one step on one row of `tokens` tokens."""
    config = dataclasses.replace(shape.config, remat=remat)
    work: Work = work_of(rows(tokens), config)
    return train_flops(config, shape.vocab_size, work)
