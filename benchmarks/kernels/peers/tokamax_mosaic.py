"""Tokamax with its Mosaic kernels and the configurations it ships; packing through its own mask type."""

from __future__ import annotations

import functools
from importlib.metadata import version

import jax
import tokamax

from benchmarks.kernels import run_jax as run
from benchmarks.kernels.cases import Attention, Experts, GroupedMatmul
from benchmarks.kernels.peers import NotSupported
from benchmarks.kernels.peers.ours import swiglu_with

__all__ = ["attention", "experts", "grouped_matmul", "run", "versions"]


def versions() -> dict[str, str]:
    return {"tokamax": version("tokamax")}


def attention(case: Attention, implementation: str = "mosaic"):
    require_accelerator()
    if case.segments:
        return _packed(case)
    window = None if case.window is None else (case.window - 1, 0)
    return lambda _, q, k, v: tokamax.dot_product_attention(
        q, k, v, scale=case.scale, is_causal=True, local_window_size=window, implementation=implementation
    )


def _packed(case: Attention):
    from tokamax._src.ops.attention import api
    from tokamax._src.ops.attention.base import Mask

    kernel = api.IMPLEMENTATIONS["mosaic_gpu" if jax.default_backend() == "gpu" else "mosaic_tpu"]

    def function(constants, q, k, v):
        mask = Mask(k_start=constants["lo"][:, None], is_causal=True)
        return kernel(q, k, v, mask=mask, logits_scale=case.scale)

    return function


def grouped_matmul(case: GroupedMatmul, implementation: str = "mosaic"):
    del case
    require_accelerator()
    return lambda constants, x, w: tokamax.ragged_dot(x, w, constants["sizes"], implementation=implementation)


def experts(case: Experts, implementation: str = "mosaic"):
    del case
    require_accelerator()
    return swiglu_with(functools.partial(tokamax.ragged_dot, implementation=implementation))


def require_accelerator() -> None:
    if jax.default_backend() == "cpu":
        raise NotSupported("Tokamax has no Mosaic or Triton kernels for a CPU")
