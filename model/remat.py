"""What the backward pass keeps of a layer and what it computes again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx


def rematerialised(block: Any, policy: str) -> Callable[..., Any]:
    """The block as a pure function, its activations kept (`none`), kept where matmuls made them (`dots`) or recomputed
    (`block`)."""
    if policy == "none":
        return block
    graph, state = nnx.split(block)
    saved = jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims if policy == "dots" else None
    run = jax.checkpoint(lambda state, *inputs: nnx.merge(graph, state)(*inputs), policy=saved)
    return lambda *inputs: run(state, *inputs)
