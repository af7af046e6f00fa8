"""One layer: mixer and feed-forward, each in a residual branch with RMSNorm."""

from __future__ import annotations

import jax
from flax import nnx

from model.attention import Attention
from model.config import ModelConfig
from model.dense import Dense
from model.init import Init
from model.moe import MoE, RouterStats
from model.norm import RMSNorm
from model.recurrent import Recurrent
from model.structure import Structure

KeysValues = tuple[jax.Array, jax.Array]


class Block(nnx.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)); with `sandwich` norms each branch is normalised once more at its
    end."""

    def __init__(self, init: Init, config: ModelConfig, layer: int):
        D = config.model_dim
        self.mixer_kind, self.ffn_kind = config.mixers[layer], config.feed_forwards[layer]
        self.sandwich = config.norms == "sandwich"
        self.mixer_norm = RMSNorm(init / "mixer_norm", D)
        self.ffn_norm = RMSNorm(init / "ffn_norm", D)
        if self.sandwich:
            self.mixer_post_norm = RMSNorm(init / "mixer_post_norm", D)
            self.ffn_post_norm = RMSNorm(init / "ffn_post_norm", D)
        if self.mixer_kind == "recurrent":
            assert config.recurrent is not None
            self.mixer = Recurrent(init / "recurrent", config.recurrent, D)
        else:
            self.mixer = Attention(init / "attention", config.attention(self.mixer_kind), D)
        if self.ffn_kind == "moe":
            assert config.moe is not None
            self.ffn = MoE(init / "moe", config.moe, D)
        else:
            assert config.dense is not None
            self.ffn = Dense(init / "dense", D, config.dense.hidden_dim, config.dense.activation)

    def __call__(
        self, x_BTD: jax.Array, structure: Structure
    ) -> tuple[jax.Array, KeysValues | None, RouterStats | None]:
        """Returns x_BTD, the keys and values of an attention mixer, and the router's statistics of an MoE."""
        keys_values = stats = None
        y_BTD = self.mixer_norm(x_BTD)
        if isinstance(self.mixer, Attention):
            y_BTD, keys_values = self.mixer(y_BTD, structure)
        else:
            y_BTD = self.mixer(y_BTD, structure)
        x_BTD = x_BTD + (self.mixer_post_norm(y_BTD) if self.sandwich else y_BTD)
        y_BTD = self.ffn_norm(x_BTD)
        if isinstance(self.ffn, MoE):
            y_BTD, stats = self.ffn(y_BTD, structure.real_BT)
        else:
            y_BTD = self.ffn(y_BTD)
        return x_BTD + (self.ffn_post_norm(y_BTD) if self.sandwich else y_BTD), keys_values, stats
