"""Parallel bins: one categorical distribution for each action dimension and step of the chunk (RT-1, arXiv
2212.06817)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from model.config import BinsHeadConfig, RobotConfig
from model.init import Init, fan_in


class BinsHead(nnx.Module):
    """hidden_BKD at the action slots -> logits float32[B,K,C,A,bins]."""

    def __init__(self, init: Init, config: BinsHeadConfig, robot: RobotConfig, model_dim: int):
        self.config = config
        shape = (model_dim, robot.chunk, robot.width, config.num_bins)
        self.kernel = init.param("kernel", shape, ("embed", "chunk", "vector", "bins"), fan_in(model_dim, gain=0.1))

    def logits(self, hidden_BKD: jax.Array) -> jax.Array:
        return jnp.einsum("bkd,dcan->bkcan", hidden_BKD, self.kernel[...].astype(hidden_BKD.dtype)).astype(jnp.float32)

    def bin_of(self, actions: jax.Array) -> jax.Array:
        """Index of the bin that holds each normalised action, clipped to the first and last bin."""
        fraction = (actions - self.config.low) / (self.config.high - self.config.low)
        return jnp.clip(jnp.floor(fraction * self.config.num_bins), 0, self.config.num_bins - 1).astype(jnp.int32)

    def centre_of(self, bins: jax.Array) -> jax.Array:
        width = (self.config.high - self.config.low) / self.config.num_bins
        return self.config.low + (bins + 0.5) * width

    def predict(self, hidden_BKD: jax.Array) -> jax.Array:
        """The most likely chunk, float32[B,K,C,A]."""
        return self.centre_of(jnp.argmax(self.logits(hidden_BKD), axis=-1))
