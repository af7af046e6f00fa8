"""Floating-point operations from the model definition: the only source of MFU and HFU.

One multiply-add is 2 operations. Only matrix products and the scan are counted; norms, activations and softmax are
left out. MFU counts what the mathematics needs: allowed (query, key) pairs, top-k experts, backward = 2 x forward. HFU
adds what the program
executes on top: recomputed activations, the recomputed probabilities of the attention backward.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from model.config import AttentionConfig, ImageConfig, ModelConfig


@dataclasses.dataclass(frozen=True)
class Work:
    """What one batch asks for. `pairs` are (query, key) pairs that an attention layer of each kind may use."""

    tokens: int  # slots that are not padding
    slots: int  # B * T, what the program computes
    pairs: dict[str, float]  # of {"local", "global"}
    images: int = 0
    vectors: int = 0
    chunks: int = 0  # action chunks, times flow samples
    chunk_pairs: float = 0.0  # (chunk step, observation key) pairs, one attention layer
    moments: int = 0  # control steps at which a local decoder acts


def work_of(batch, config: ModelConfig, flow_samples: int = 1) -> Work:
    """Count the work in one batch (fields as in `data.batch.Batch`, NumPy or JAX arrays)."""
    segment_ids = np.asarray(batch.segment_ids)
    lengths = np.concatenate([np.bincount(row)[1:] for row in segment_ids]).astype(np.int64)
    lengths = lengths[lengths > 0]
    pairs = {}
    for kind in {"local", "global"} & set(config.mixers):
        window = config.attention(kind).window or np.iinfo(np.int64).max
        seen = np.minimum(lengths, window)
        pairs[kind] = float(np.sum(seen * (seen + 1) / 2 + (lengths - seen) * seen))
    used = lambda group, name: int(np.sum(np.asarray(group[name]) >= 0)) if name in group else 0  # noqa: E731
    chunks = used(batch.values, "action_slot") * flow_samples
    chunk_pairs = 0.0
    if chunks and config.robot is not None:
        rows, columns = np.nonzero(np.asarray(batch.values["action_slot"]) >= 0)
        slots = np.asarray(batch.values["action_slot"])[rows, columns]
        prefix = np.asarray(batch.positions)[rows, slots] + 1
        chunk_pairs = float(np.sum(prefix + config.robot.chunk)) * config.robot.chunk * flow_samples
    return Work(
        tokens=int(np.sum(segment_ids > 0)),
        slots=segment_ids.size,
        pairs=pairs,
        images=used(batch.media, "image_slot"),
        vectors=used(batch.values, "proprio_slot"),
        chunks=chunks,
        chunk_pairs=chunk_pairs,
        moments=chunks * batch.values["action"].shape[2] if "chunk_proprio" in batch.values else 0,
    )


def forward_flops(config: ModelConfig, vocab_size: int, work: Work) -> dict[str, float]:
    """Forward FLOPs of one batch by part; `attention` holds the pair products, everything else is linear in tokens."""
    D = config.model_dim
    parts: dict[str, float] = dict.fromkeys(("mixer", "attention", "ffn", "head", "embed", "action"), 0.0)
    for mixer, ffn in zip(config.mixers, config.feed_forwards, strict=True):
        parts["mixer"] += work.tokens * _mixer_flops(config, mixer)
        parts["ffn"] += work.tokens * _ffn_flops(config, ffn)
        if mixer != "recurrent":
            attention = config.attention(mixer)
            parts["attention"] += work.pairs[mixer] * 4 * attention.num_heads * attention.head_dim
    parts["head"] = 2.0 * work.tokens * D * vocab_size
    for part, flops in _image_flops(config).items():
        parts[part] += work.images * flops
    if config.robot is not None:
        parts["embed"] += 2.0 * work.vectors * config.robot.num_embodiments * config.robot.width * D
        parts["action"] = _action_flops(config, work)
    return parts


def train_flops(config: ModelConfig, vocab_size: int, work: Work) -> tuple[float, float]:
    """(model, hardware) FLOPs of one training step: the numerators of MFU and HFU."""
    parts = forward_flops(config, vocab_size, work)
    total = sum(parts.values())
    recomputed = parts["attention"] / 2 + parts["head"]  # one of two attention products, and the blockwise logits
    if config.remat == "block":
        recomputed += parts["mixer"] + parts["attention"] + parts["ffn"]
    elif config.remat == "dots":
        recomputed += parts["attention"]
    return 3.0 * total, 3.0 * total + recomputed


def acting_flops(config: ModelConfig, work: Work, plan_length: int = 0) -> float:
    """FLOPs of a policy's answers: the backbone once for each number of the plan and once more, then every Euler step
    of the action expert. What serving need not compute, the token head but for the plan's slots, is left out."""
    parts = forward_flops(config, 0, work)
    action = parts.pop("action")
    return (plan_length + 1) * sum(parts.values()) + action * (config.flow.num_steps if config.flow else 1)


def _mixer_flops(config: ModelConfig, mixer: str) -> float:
    D = config.model_dim
    if mixer == "recurrent":
        assert config.recurrent is not None
        N = config.recurrent.num_states
        return 2 * (2 * D * N) * 2 + 2 * 2 * D * D + 8 * N
    return _attention_flops(config.attention(mixer), D)


def _attention_flops(attention: AttentionConfig, width: int) -> float:
    """Query, key, value and output projections of one token."""
    H, K, h = attention.num_heads, attention.num_kv_heads, attention.head_dim
    return 2 * width * h * (H + (1 if attention.tied_values else 2) * K) + 2 * H * h * width


def _ffn_flops(config: ModelConfig, ffn: str) -> float:
    D, flops = config.model_dim, 0
    if ffn != "moe":
        assert config.dense is not None
        flops += 6 * D * config.dense.hidden_dim
    if ffn != "dense":
        assert config.moe is not None
        moe = config.moe
        flops += 2 * D * moe.num_experts + 6 * D * (moe.top_k * moe.hidden_dim + moe.shared_dim)
    return flops


def _image_flops(config: ModelConfig) -> dict[str, float]:
    """Of one picture; an encoder's layers count as layers, since what is recomputed of them is the same."""
    image, D = config.image, config.model_dim
    if image is None:
        return {}
    if isinstance(image, ImageConfig):
        C, cells = image.stem_dim, image.num_patches * (image.patch_size // image.stem_stride) ** 2
        return {"embed": cells * (2 * 3 * image.stem_stride**2 * C + 2 * 2 * C * 2 * C + 2 * C * D)}
    P, E, layers = image.num_patches, image.encoder_dim, image.num_layers
    return {
        "embed": P * 2 * 3 * image.patch_size**2 * E + image.num_slots * 2 * E * D,
        "mixer": layers * P * 2 * 4 * E * E,
        "attention": layers * P * P * 4 * E,
        "ffn": layers * P * 2 * 2 * E * image.hidden_dim,
    }


def _action_flops(config: ModelConfig, work: Work) -> float:
    assert config.robot is not None
    robot, flops = config.robot, 0.0
    if config.bins is not None:
        flops += 2 * config.model_dim * robot.chunk * robot.width * config.bins.num_bins * work.chunks
    if config.l1 is not None:
        inputs, outputs = robot.num_embodiments * robot.width, robot.num_embodiments * robot.chunk * robot.width
        per_chunk = 2 * inputs * config.model_dim + 4 * config.model_dim * config.l1.hidden_dim
        flops += (per_chunk + 2 * config.l1.hidden_dim * outputs) * work.chunks
    if config.flow is not None:
        W = config.flow.width
        per_step = 2 * 2 * robot.num_embodiments * robot.width * W  # in and out
        per_chunk = 2 * 6 * W * 2 * W + 2 * config.model_dim * W  # time and condition, latent
        per_chunk += 2 * robot.num_embodiments * robot.width * W  # state
        for mixer in config.mixers:
            if mixer != "recurrent":
                attention = config.attention(mixer)
                per_step += _attention_flops(attention, W) + 6 * W * config.flow.hidden_dim
                per_chunk += 2 * W * 6 * W
                flops += work.chunk_pairs * 4 * attention.num_heads * attention.head_dim
        flops += work.chunks * (per_chunk + robot.chunk * per_step)
    if config.local_decoder is not None:
        flops += _local_decoder_flops(config, work)
    return flops


def _local_decoder_flops(config: ModelConfig, work: Work) -> float:
    """The guide once for each chunk, and the decoder at every control step of it."""
    assert config.robot is not None
    assert config.local_decoder is not None
    local, inputs = config.local_decoder, config.robot.num_embodiments * config.robot.width
    per_chunk = 2 * config.model_dim * local.width + 2 * config.robot.chunk * inputs * local.width
    per_step = 4 * 2 * inputs * local.width + local.num_layers * 6 * local.width * local.hidden_dim
    return (work.chunks * per_chunk if work.moments else 0) + work.moments * per_step
