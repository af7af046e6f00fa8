"""Which cases and implementations belong to which part of the benchmark, at full size and small enough for a CPU."""

from __future__ import annotations

from benchmarks.kernels.cases import Attention, Case, Copy, Decode, Experts, GroupedMatmul, Matmul, Scale, Scan

# 1 k to 16 k tokens, 65536 in all, none a multiple of a tile except the longest.
SEGMENTS = (4649, 1301, 16384, 1709, 3001, 1201, 7001, 1672, 2503, 9973, 1409, 5507, 1907, 2111, 1531, 3677)
EXPERTS = {"num_experts": 64, "top_k": 8, "model_dim": 2048, "hidden_dim": 1024, "tokens": 65536}
SMALL_HEADS = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 64}
SMALL_EXPERTS = {"num_experts": 4, "top_k": 2, "model_dim": 64, "hidden_dim": 32, "tokens": 96}

FULL: dict[str, tuple[Case, ...]] = {
    "ceilings": (Matmul("matmul", size=8192), Copy("copy", size=1 << 30)),
    "attention": (Attention("causal", tokens=16384),),
    "window": (Attention("window", tokens=131072, window=1024),),
    "packed": (Attention("packed", tokens=sum(SEGMENTS), segments=SEGMENTS),),
    "scan": (Scan("scan", tokens=131072, channels=4096),),
    "moe": (Experts("experts", **EXPERTS), GroupedMatmul("grouped matmul", **EXPERTS)),
    "decode": (Decode("decode", batch=64, slots=32768),),
}
SMALL: dict[str, tuple[Case, ...]] = {
    "ceilings": (Matmul("matmul", size=256), Copy("copy", size=1 << 16)),
    "attention": (Attention("causal", tokens=128, **SMALL_HEADS),),
    "window": (Attention("window", tokens=192, window=32, **SMALL_HEADS),),
    "packed": (Attention("packed", tokens=160, segments=(70, 1, 33, 56), **SMALL_HEADS),),
    "scan": (Scan("scan", tokens=24, channels=128, num_segments=3),),
    "moe": (Experts("experts", **SMALL_EXPERTS), GroupedMatmul("grouped matmul", **SMALL_EXPERTS)),
    "decode": (Decode("decode", batch=3, slots=64, **SMALL_HEADS),),
}
PARTS = tuple(FULL)

# A name is a file in peers/; ours comes first, so that a part cut short has it.
IMPLEMENTATIONS: dict[str, tuple[str, ...]] = {
    "ceilings": ("xla", "torch_sdpa"),
    "attention": ("ours", "cudnn", "tokamax_mosaic", "torch_sdpa", "torch_flex"),
    "window": ("ours", "cudnn", "tokamax_mosaic", "torch_sdpa", "torch_flex"),
    "packed": ("ours", "cudnn", "tokamax_mosaic", "torch_sdpa", "torch_flex"),
    "scan": ("ours", "xla", "xla_adjoint"),
    "moe": ("ours", "tokamax_mosaic", "tokamax_triton", "torch_grouped", "xla"),
    "decode": ("ours", "cudnn", "torch_sdpa"),
}
# Packages that an implementation needs besides jax.
NEEDS: dict[str, tuple[str, ...]] = {
    "tokamax_mosaic": ("tokamax",),
    "tokamax_triton": ("tokamax", "jax_triton"),
    "torch_sdpa": ("torch",),
    "torch_flex": ("torch",),
    "torch_grouped": ("torch",),
}


def cases(part: str, scale: Scale) -> tuple[Case, ...]:
    return (FULL if scale == "full" else SMALL)[part]


def case_named(name: str, scale: Scale) -> Case:
    return next(case for part in PARTS for case in cases(part, scale) if case.name == name)
