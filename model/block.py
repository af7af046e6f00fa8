"""One layer: mixer and feed-forward, each in a residual branch with RMSNorm."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from model.attention import Attention
from model.config import ModelConfig
from model.dense import Dense
from model.dense_moe import DenseMoE
from model.init import Init, ones
from model.moe import MoE, RouterStats
from model.norm import RMSNorm
from model.recurrent import Recurrent
from model.structure import Structure

KeysValues = tuple[jax.Array, jax.Array]


class Block(nnx.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)); with `sandwich` norms each branch is normalised once more at its
    end, and with `layer_scale` the sum of all is multiplied by a learned number."""

    def __init__(self, init: Init, config: ModelConfig, layer: int):
        D = config.model_dim
        self.mixer_kind, self.ffn_kind = config.mixers[layer], config.feed_forwards[layer]
        self.sandwich, self.scaled = config.norms == "sandwich", config.layer_scale
        self.mixer_norm = RMSNorm(init / "mixer_norm", D, config=config.norm)
        if self.sandwich:
            self.mixer_post_norm = RMSNorm(init / "mixer_post_norm", D, config=config.norm)
            self.ffn_post_norm = RMSNorm(init / "ffn_post_norm", D, config=config.norm)
        if self.mixer_kind == "recurrent":
            assert config.recurrent is not None
            self.mixer = Recurrent(init / "recurrent", config.recurrent, D, config.kernels)
        else:
            attention = config.attention(self.mixer_kind)
            self.mixer = Attention(init / "attention", attention, D, config.kernels, config.norm, config.longest_span)
        if self.ffn_kind == "dense_moe":
            self.ffn = DenseMoE(init, config)  # has norms of its own
        else:
            self.ffn_norm = RMSNorm(init / "ffn_norm", D, config=config.norm)
        if self.ffn_kind == "moe":
            assert config.moe is not None
            self.ffn = MoE(init / "moe", config.moe, D, config.kernels, config.norm)
        elif self.ffn_kind == "dense":
            assert config.dense is not None
            self.ffn = Dense(init / "dense", D, config.dense.hidden_dim, config.dense.activation)
        if config.layer_scale:
            self.layer_scale = init.param("layer_scale", (), (), ones)

    def __call__(
        self, x_BTD: jax.Array, structure: Structure, cache: Any = None
    ) -> tuple[jax.Array, Any, RouterStats | None]:
        """Returns x_BTD, what the mixer keeps, and the router's statistics of an MoE.

        A mixer keeps its cache, extended by these slots; without one, attention keeps its (k_BTKh, v_BTKh).
        """
        y_BTD, kept = self.mixer(self.mixer_norm(x_BTD), structure, cache)
        x_BTD = x_BTD + (self.mixer_post_norm(y_BTD) if self.sandwich else y_BTD)
        y_BTD, stats = self._feed_forward(x_BTD, structure.real_BT)
        x_BTD = x_BTD + (self.ffn_post_norm(y_BTD) if self.sandwich else y_BTD)
        return x_BTD * self.layer_scale[...].astype(x_BTD.dtype) if self.scaled else x_BTD, kept, stats

    def _feed_forward(self, x_BTD: jax.Array, real_BT: jax.Array) -> tuple[jax.Array, RouterStats | None]:
        if isinstance(self.ffn, DenseMoE):
            return self.ffn(x_BTD, real_BT)
        y_BTD = self.ffn_norm(x_BTD)
        return self.ffn(y_BTD, real_BT) if isinstance(self.ffn, MoE) else (self.ffn(y_BTD), None)
