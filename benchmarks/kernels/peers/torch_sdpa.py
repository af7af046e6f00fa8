"""PyTorch's fused attention: SDPA held to its flash backend, and the same kernel with segment lengths for packing."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.kernels import run_torch as run
from benchmarks.kernels.cases import Attention, Copy, Decode, Matmul
from benchmarks.kernels.peers import NotSupported

__all__ = ["attention", "copy", "decode", "matmul", "run"]


def attention(case: Attention):
    if case.window is not None:
        raise NotSupported("SDPA has no window; its masks hold T x T numbers and rule the flash backend out")
    if case.segments:
        return _packed(case)

    def function(_, q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=case.scale, enable_gqa=True)
        return out.transpose(1, 2)

    return function


def decode(case: Decode):
    def function(_, q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            out = scaled_dot_product_attention(q, k, v, scale=case.scale, enable_gqa=True)
        return out.transpose(1, 2)

    return function


def _packed(case: Attention):
    if run.DEVICE == "cpu":
        raise NotSupported("varlen_attn has no CPU kernel")
    from torch.nn.attention.varlen import varlen_attn

    ends_N = torch.tensor((0, *case.segments), device=run.DEVICE).cumsum(0).to(torch.int32)
    longest = max(case.segments)

    def function(_, q, k, v):
        out = varlen_attn(q[0], k[0], v[0], ends_N, ends_N, longest, longest, window_size=(-1, 0), scale=case.scale)
        return out[None]

    return function


def matmul(case: Matmul):
    del case
    return lambda _, x, w: x @ w


def copy(case: Copy):
    del case
    return lambda _, x: x.clone()
