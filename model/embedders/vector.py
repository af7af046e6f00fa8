"""Continuous vectors (proprioception, actions) of several embodiments: one affine map for each robot."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from model.init import Init, fan_in, zeros


class VectorEmbedder(nnx.Module):
    """values [B,K,...,A] of embodiment_BK -> [B,K,...,D]. Dims beyond an embodiment's own size hold zeros."""

    def __init__(self, init: Init, num_embodiments: int, vector_dim: int, model_dim: int):
        E, A, D = num_embodiments, vector_dim, model_dim
        self.kernel = init.param("kernel", (E, A, D), ("embodiment", "vector", "embed"), fan_in(A))
        self.bias = init.param("bias", (E, D), ("embodiment", "embed"), zeros)

    def __call__(self, values: jax.Array, embodiment_BK: jax.Array, dtype: jnp.dtype) -> jax.Array:
        one_hot_BKE = jax.nn.one_hot(embodiment_BK, self.kernel.shape[0], dtype=dtype)
        mapped = jnp.einsum("bk...a,ead->bk...ed", values.astype(dtype), self.kernel[...].astype(dtype))
        return jnp.einsum("bk...ed,bke->bk...d", mapped + self.bias[...].astype(dtype), one_hot_BKE)
