"""Token head: functions of logits computed a block of positions at a time, so [B,T,V] never exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.init import Init, fan_in

BLOCK = 1024  # positions whose logits exist at once


class TokenHead(nnx.Module):
    """hidden [..., D] -> logits [..., V] in float32; `table_VD` is the embedding when tied."""

    def __init__(self, init: Init, vocab_size: int, model_dim: int, tied: bool, softcap: float | None):
        self.softcap = softcap
        if not tied:
            self.table = init.param("table", (vocab_size, model_dim), ("vocab", "embed"), fan_in(model_dim))

    def logits(self, hidden: jax.Array, table_VD: jax.Array) -> jax.Array:
        logits = jnp.einsum("...d,vd->...v", hidden, table_VD.astype(hidden.dtype)).astype(jnp.float32)
        return logits if self.softcap is None else self.softcap * jnp.tanh(logits / self.softcap)


def blockwise(function: Callable[..., Any], *trees_N: Any, block: int = BLOCK) -> Any:
    """function(*slices) applied to consecutive blocks of the leading axis; its intermediates are recomputed in the
    backward pass.

    `function` maps arrays, or trees of arrays, of leading size `block` to ones of that size. N need not be a multiple
    of the block.
    """
    size = jax.tree.leaves(trees_N)[0].shape[0]
    block = min(block, size)
    pad = -size % block

    def cut(a: jax.Array) -> jax.Array:
        return jnp.pad(a, [(0, pad)] + [(0, 0)] * (a.ndim - 1)).reshape(-1, block, *a.shape[1:])

    out = jax.lax.map(jax.checkpoint(lambda slices: function(*slices)), jax.tree.map(cut, trees_N))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:size], out)


def token_nll(model: Any, hidden_BTD: jax.Array, target_BT: jax.Array) -> jax.Array:
    """-log p(target) in nats, float32[B,T], without [B,T,V] logits; `model` is a `model.model.Model`."""

    def nll(hidden_ND, target_N):
        logits_NV = model.token_logits(hidden_ND)
        return jax.nn.logsumexp(logits_NV, axis=-1) - jnp.take_along_axis(logits_NV, target_N[:, None], axis=-1)[:, 0]

    flat = blockwise(nll, hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), target_BT.reshape(-1))
    return flat.reshape(target_BT.shape)
