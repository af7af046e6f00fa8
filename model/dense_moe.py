"""Two feed-forwards side by side: a dense one and a mixture of experts (Gemma 4; Snowflake Arctic is a relative)."""

from __future__ import annotations

import jax
from flax import nnx

from model.config import ModelConfig
from model.dense import Dense
from model.init import Init
from model.moe import MoE, RouterStats
from model.norm import RMSNorm


class DenseMoE(nnx.Module):
    """dense(norm(x)) + moe(norm'(x)); with `sandwich` norms each of the two is normalised once more before the sum.

    The router reads x itself, which only one norm, its own, should change: see `MoEConfig.router_norm`.
    """

    def __init__(self, init: Init, config: ModelConfig):
        assert config.dense is not None
        assert config.moe is not None
        D = config.model_dim
        self.sandwich = config.norms == "sandwich"
        self.dense_norm = RMSNorm(init / "dense_norm", D, config=config.norm)
        self.moe_norm = RMSNorm(init / "moe_norm", D, config=config.norm)
        if self.sandwich:
            self.dense_post_norm = RMSNorm(init / "dense_post_norm", D, config=config.norm)
            self.moe_post_norm = RMSNorm(init / "moe_post_norm", D, config=config.norm)
        self.dense = Dense(init / "dense", D, config.dense.hidden_dim, config.dense.activation)
        self.moe = MoE(init / "moe", config.moe, D, config.kernels, config.norm)

    def __call__(self, x_BTD: jax.Array, real_BT: jax.Array) -> tuple[jax.Array, RouterStats]:
        """x_BTD comes without a norm."""
        dense_BTD = self.dense(self.dense_norm(x_BTD))
        moe_BTD, stats = self.moe(self.moe_norm(x_BTD), real_BT, routed_BTD=x_BTD)
        if self.sandwich:
            dense_BTD, moe_BTD = self.dense_post_norm(dense_BTD), self.moe_post_norm(moe_BTD)
        return dense_BTD + moe_BTD, stats
