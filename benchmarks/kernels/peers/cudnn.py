"""cuDNN's fused attention through JAX.

A window is always given together with `is_causal`: without it JAX lets cuDNN see the whole future (jax#39576). Packing
is not in the public function; the one below it takes the segments' offsets and lengths.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from benchmarks.kernels import run_jax as run
from benchmarks.kernels.cases import Attention, Decode
from benchmarks.kernels.peers import NotSupported

__all__ = ["attention", "decode", "run"]


def attention(case: Attention):
    _require_gpu()
    if case.segments:
        return _packed(case)
    window = None if case.window is None else (case.window - 1, 0)
    return lambda _, q, k, v: jax.nn.dot_product_attention(
        q, k, v, scale=case.scale, is_causal=True, local_window_size=window, implementation="cudnn"
    )


def decode(case: Decode):
    _require_gpu()
    return lambda _, q, k, v: jax.nn.dot_product_attention(q, k, v, scale=case.scale, implementation="cudnn")


def _packed(case: Attention):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    lengths_BM = jnp.asarray([case.segments], jnp.int32)
    offsets_BM = jnp.pad(jnp.cumsum(lengths_BM, axis=1), ((0, 0), (1, 0))).astype(jnp.int32)
    return lambda _, q, k, v: cudnn.dot_product_attention(
        q,
        k,
        v,
        q_seqlen=lengths_BM,
        kv_seqlen=lengths_BM,
        q_offsets=offsets_BM,
        kv_offsets=offsets_BM,
        scale=case.scale,
        mask_type=cudnn.MaskType.PADDING_CAUSAL,
    )


def _require_gpu() -> None:
    if jax.default_backend() != "gpu":
        raise NotSupported(f"cuDNN needs a GPU, this process runs on {jax.default_backend()}")
