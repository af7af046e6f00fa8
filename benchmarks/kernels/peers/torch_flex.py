"""PyTorch's FlexAttention, compiled, with a block mask made once: it skips whole tiles of any mask, both ways."""

from __future__ import annotations

import torch
import torch._functorch.config as functorch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from benchmarks.kernels import run_torch as run
from benchmarks.kernels.cases import Attention

__all__ = ["attention", "run"]


def attention(case: Attention):
    functorch.donated_buffer = False  # the graph is kept and its backward pass run again for every repeat
    lo_T = torch.from_numpy(case.interval()[0]).to(run.DEVICE)

    def allowed(batch, head, query, key):
        del batch, head
        return (key >= lo_T[query]) & (key <= query)

    # Compiled, it never holds the T x T mask that it summarises.
    make_mask = torch.compile(create_block_mask) if run.DEVICE == "cuda" else create_block_mask
    mask = make_mask(allowed, None, None, case.tokens, case.tokens, device=run.DEVICE)
    compiled = torch.compile(flex_attention, dynamic=False)

    def function(_, q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return compiled(q, k, v, block_mask=mask, scale=case.scale, enable_gqa=True).transpose(1, 2)

    return function
