"""Regression of whole chunks: the median of each action, from the hidden state at the action slot and the robot's state
(parallel decoding with an L1 loss, OpenVLA-OFT, arXiv 2502.19645)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from model.config import L1HeadConfig, RobotConfig
from model.embedders.vector import VectorEmbedder
from model.init import Init, fan_in
from model.norm import rms_normalise


class L1Head(nnx.Module):
    """hidden_BKD and proprio_BKA -> actions float32[B,K,C,A]: a gated layer, then each robot's own output."""

    def __init__(self, init: Init, config: L1HeadConfig, robot: RobotConfig, model_dim: int):
        D, F, E, C, A = model_dim, config.hidden_dim, robot.num_embodiments, robot.chunk, robot.width
        # The robot's state reaches the head at full precision; a backbone need not carry it.
        self.state = VectorEmbedder(init / "state", E, A, D)
        self.gate = init.param("gate", (D, F), ("embed", "mlp"), fan_in(D))
        self.up = init.param("up", (D, F), ("embed", "mlp"), fan_in(D))
        self.out = init.param("out", (E, F, C, A), ("embodiment", "mlp", "chunk", "vector"), fan_in(F, gain=0.1))

    def predict(self, hidden_BKD: jax.Array, proprio_BKA: jax.Array, embodiment_BK: jax.Array) -> jax.Array:
        """Normalised chunks."""
        dtype = hidden_BKD.dtype
        x_BKD = hidden_BKD + self.state(proprio_BKA, embodiment_BK, dtype)
        x_BKD = rms_normalise(x_BKD).astype(dtype)
        x_BKF = jax.nn.gelu(x_BKD @ self.gate[...].astype(dtype)) * (x_BKD @ self.up[...].astype(dtype))
        one_hot_BKE = jax.nn.one_hot(embodiment_BK, self.out.shape[0], dtype=jnp.float32)
        by_embodiment = jnp.einsum("bkf,efca->bkeca", x_BKF.astype(jnp.float32), self.out[...])
        return jnp.einsum("bkeca,bke->bkca", by_embodiment, one_hot_BKE)
