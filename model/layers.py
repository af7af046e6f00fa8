"""The same parameters in two forms: stacked over the repeats of the pattern, or layer by layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from model.config import ModelConfig

# In both forms the layers are dictionaries under `repeated` and `remainder` of the stack, by index as text.


def unstacked(tree: Any, config: ModelConfig) -> Any:
    """Parameters or buffers of a model with `scan=True` as those of the same model with `scan=False`."""
    repeats, period = config.num_repeats, config.period
    if not repeats or "stack" not in tree:
        return tree
    stack = tree["stack"]
    layers = {
        str(i * period + p): jax.tree.map(lambda leaf, i=i: leaf[i], stack["repeated"][str(p)])
        for i in range(repeats)
        for p in range(period)
        if str(p) in stack["repeated"]
    }
    tail = {str(repeats * period + int(j)): layer for j, layer in stack.get("remainder", {}).items()}
    return tree | {"stack": {"remainder": layers | tail}}


def restacked(tree: Any, config: ModelConfig) -> Any:
    """The inverse of `unstacked`; `config` has `scan=True`."""
    repeats, period = config.num_repeats, config.period
    if not repeats or "stack" not in tree:
        return tree
    layers = tree["stack"]["remainder"]
    repeated = {
        str(p): jax.tree.map(lambda *leaves: jnp.stack(leaves), *(layers[str(i * period + p)] for i in range(repeats)))
        for p in range(period)
        if str(p) in layers
    }
    tail = {str(j - repeats * period): layers[str(j)] for j in sorted(map(int, layers)) if j >= repeats * period}
    groups = {"repeated": repeated} | ({"remainder": tail} if tail else {})
    return tree | {"stack": groups}
