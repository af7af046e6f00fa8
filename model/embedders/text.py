"""Token embedding: text pieces and discrete codes share one table; codes are numbers and share a smooth part too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.init import Init, Initializer, normal


class TokenEmbedder(nnx.Module):
    """tokens_BT -> x_BTD, times sqrt(D) if `scale` so that a tied table serves as the head at unit variance.

    `num_codes` ids, the last ones but `num_other`, are an ordered range (a place, an angle). Their embeddings begin as
    a linear map of smooth features of the number, so that neighbours are alike from the start; each can still become an
    exception.
    """

    def __init__(
        self, init: Init, vocab_size: int, model_dim: int, scale: bool, num_codes: int = 0, num_other: int = 0
    ):
        self.factor, self.num_codes = model_dim**0.5 if scale else 1.0, num_codes
        self.first_code = vocab_size - num_codes - num_other
        shape, axes = (vocab_size, model_dim), ("vocab", "embed")
        codes = slice(self.first_code, self.first_code + num_codes)
        self.table = init.param("table", shape, axes, _zero_in(codes, normal(model_dim**-0.5)))
        if num_codes:
            features = number_features(num_codes).shape[1]
            self.smooth = init.param("smooth", (features, model_dim), (None, "embed"), normal(model_dim**-0.5))

    def weights(self) -> jax.Array:
        """The embeddings before scaling, float32[V,D]; also the tied head."""
        table_VD = self.table[...]
        if not self.num_codes:
            return table_VD
        codes = slice(self.first_code, self.first_code + self.num_codes)
        return table_VD.at[codes].add(number_features(self.num_codes) @ self.smooth[...])

    def __call__(self, tokens_BT: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return self.weights().astype(dtype)[tokens_BT] * jnp.asarray(self.factor, dtype)


def number_features(num_codes: int) -> np.ndarray:
    """Rows of unit length float32[n,F] for u in 0 .. 1: u itself, then sines and cosines of pi 2^j u."""
    u_n = (np.arange(num_codes) + 0.5) / num_codes
    angle_nJ = np.pi * u_n[:, None] * 2.0 ** np.arange(max(1, int(np.log2(num_codes))))
    features = np.concatenate([2 * u_n[:, None] - 1, np.sin(angle_nJ), np.cos(angle_nJ)], axis=1)
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def _zero_in(rows: slice, initializer: Initializer) -> Initializer:
    def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return initializer(key, shape).at[rows].set(0.0)

    return init
