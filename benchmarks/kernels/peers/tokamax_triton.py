"""Tokamax with its Triton kernels: its fastest weight gradient of a grouped product on H100."""

from __future__ import annotations

import functools

from benchmarks.kernels import run_jax as run
from benchmarks.kernels.peers import tokamax_mosaic
from benchmarks.kernels.peers.tokamax_mosaic import versions

__all__ = ["experts", "grouped_matmul", "run", "versions"]

grouped_matmul = functools.partial(tokamax_mosaic.grouped_matmul, implementation="triton")
experts = functools.partial(tokamax_mosaic.experts, implementation="triton")
