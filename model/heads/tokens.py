"""Token head: functions of logits computed a block of positions at a time, so [B,T,V] never exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.init import Init, fan_in
from sharding.mesh import TOKEN_AXES, ambient_mesh, token_spec

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


def positionwise(function: Callable[..., Any], *trees_BT: Any, block: int = BLOCK) -> Any:
    """`blockwise` over the positions of arrays [B,T,...], or trees of them: `function` maps leading size n to n.

    On a mesh each device takes blocks of the positions that it holds, as many at once as elsewhere. What `function`
    closes over is gathered once before them, and its gradient summed over devices once after them.
    """

    def local(*trees_BT: Any) -> Any:
        B, T = jax.tree.leaves(trees_BT)[0].shape[:2]
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), trees_BT)
        return jax.tree.map(lambda x: x.reshape(B, T, *x.shape[1:]), blockwise(function, *flat, block=block))

    mesh = ambient_mesh()
    # XLA's partitioner fails where all axes of a `shard_map` have one device and another axis is the compiler's.
    if mesh is None or all(mesh.shape[axis] == 1 for axis in TOKEN_AXES):
        return local(*trees_BT)
    spec = token_spec(mesh, *jax.tree.leaves(trees_BT)[0].shape[:2])
    # The vocabulary's axis, `tensor`, stays the compiler's.
    spread = jax.shard_map(local, in_specs=spec, out_specs=spec, axis_names=set(TOKEN_AXES), check_vma=False)
    return spread(*trees_BT)


def token_nll(model: Any, hidden_BTD: jax.Array, target_BT: jax.Array) -> jax.Array:
    """-log p(target) in nats, float32[B,T], without [B,T,V] logits; `model` is a `model.model.Model`."""
    unembed = model.unembedding()

    def nll(hidden_ND, target_N):
        logits_NV = unembed(hidden_ND)
        return jax.nn.logsumexp(logits_NV, axis=-1) - jnp.take_along_axis(logits_NV, target_N[:, None], axis=-1)[:, 0]

    return positionwise(nll, hidden_BTD, target_BT)
