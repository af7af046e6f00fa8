"""Flow-matching action expert: a small transformer over the chunk that attends to the backbone's keys and values.

pi0 (arXiv 2410.24164), with its convention: tau = 1 is noise, tau = 0 the action; x_tau = tau * noise + (1 - tau) *
action, the expert regresses the velocity noise - action, and inference integrates from 1 to 0 by Euler steps. tau
enters by adaptive RMSNorm (pi0.5). The chunk is bidirectional in itself and sees the observation; the observation
never sees the chunk.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from model.attention import Attention
from model.block import KeysValues
from model.config import AttentionConfig, FlowHeadConfig, ModelConfig
from model.dense import Dense
from model.embedders.vector import VectorEmbedder
from model.init import Init, fan_in, normal, zeros
from model.norm import rms_normalise
from model.sharded_attention import attend_from_rows
from pallas_kernels.interval_attention import interval_attention, merge


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefix:
    """What each chunk k of row b sees of the backbone.

    keys_values: (k_BTKh, v_BTKh) of every attention layer.
    hidden_BKD: the backbone's output at the slot the chunk is predicted from.
    proprio_BKA: what the robot feels there, normalised.
    lo_BK, hi_BK: int32. Keys [lo, hi) of the chunk's observation; empty where the row has no chunk k.
    position_BK: int32. Position of the chunk's first step, one after the slot it is predicted from.
    """

    keys_values: tuple[KeysValues, ...]
    hidden_BKD: jax.Array
    proprio_BKA: jax.Array
    lo_BK: jax.Array
    hi_BK: jax.Array
    position_BK: jax.Array


class FlowHead(nnx.Module):
    """One expert layer for each attention layer of the backbone, with that layer's heads, head width and RoPE."""

    def __init__(self, init: Init, model: ModelConfig):
        assert model.flow is not None
        assert model.robot is not None
        self.config, robot = model.flow, model.robot
        W, E, A = self.config.width, robot.num_embodiments, robot.width
        self.embed = VectorEmbedder(init / "embed", E, A, W)
        self.step_position = init.param("step_position", (robot.chunk, W), ("chunk", "embed"), normal(0.5))
        self.time = Dense(init / "time", W, 2 * W, "silu")
        # The robot's state reaches the expert at full precision, as in pi0; a backbone need not carry it.
        self.state = VectorEmbedder(init / "state", E, A, W)
        # Keys and values end below the last layer; what that layer found reaches the expert here.
        self.latent = init.param("latent", (model.model_dim, W), ("embed", "embed_out"), fan_in(model.model_dim))
        mixers = [mixer for mixer in model.mixers if mixer != "recurrent"]
        self.condition = Dense(init / "condition", W, 2 * W, "silu")
        self.layers = nnx.List(
            [ExpertLayer(init / f"layer{i}", self.config, model.attention(m), model) for i, m in enumerate(mixers)]
        )
        self.out = init.param("out", (E, W, A), ("embodiment", "embed", "vector"), zeros)

    def velocity(self, noisy_BKCA, tau, embodiment_BK, prefix: Prefix) -> jax.Array:
        """Velocity float32[B,K,C,A] of noisy chunks at flow time tau_BK, or at a time of each action's own, tau_BKC.

        Preconditioned (EDM, arXiv 2206.00364, section 5): x_tau enters at unit variance, and what is learned is added
        to the best velocity for actions that are standard normal and independent of all that is seen. So the network
        need not copy the noise: at tau = 1 it predicts the action alone.
        """
        tau_BKc = tau[..., None] if tau.ndim == 2 else tau  # c is 1, or C
        tau = tau_BKc[..., None]
        std = jnp.sqrt(tau**2 + (1 - tau) ** 2)  # of x_tau
        learned_BKCA = self._field(noisy_BKCA / std, tau_BKc, embodiment_BK, prefix)
        return (2 * tau - 1) / std**2 * noisy_BKCA + learned_BKCA / std

    def _field(self, noisy_BKCA, tau_BKc, embodiment_BK, prefix: Prefix) -> jax.Array:
        dtype = prefix.keys_values[0][0].dtype
        x = self.embed(noisy_BKCA, embodiment_BK, dtype) + self.step_position[...].astype(dtype)
        condition = self.time(_fourier(tau_BKc, self.config.width).astype(dtype))
        condition = condition + (prefix.hidden_BKD @ self.latent[...].astype(dtype))[:, :, None]
        condition = condition + self.state(prefix.proprio_BKA, embodiment_BK, dtype)[:, :, None]
        condition = condition + self.condition(rms_normalise(condition).astype(dtype))
        for layer, keys_values in zip(self.layers, prefix.keys_values, strict=True):
            x = layer(x, condition, keys_values, prefix)
        one_hot_BKE = jax.nn.one_hot(embodiment_BK, self.out.shape[0], dtype=jnp.float32)
        by_embodiment = jnp.einsum("bkcw,ewa->bkcea", rms_normalise(x), self.out[...])
        return jnp.einsum("bkcea,bke->bkca", by_embodiment, one_hot_BKE)

    def sample(self, noise_BKCA, embodiment_BK, prefix: Prefix) -> jax.Array:
        """Integrate the velocity from tau = 1 to 0 with `num_steps` Euler steps; returns normalised chunks."""
        field = lambda x_BKCA, tau_BK: self.velocity(x_BKCA, tau_BK, embodiment_BK, prefix)  # noqa: E731
        return self.integrate(field, noise_BKCA)

    def integrate(self, field: Callable[[jax.Array, jax.Array], jax.Array], noise_BKCA: jax.Array) -> jax.Array:
        """The same Euler steps along the velocity `field(x_BKCA, tau_BK)`."""
        steps = self.config.num_steps

        def euler(x_BKCA, step):
            return x_BKCA - field(x_BKCA, jnp.full(x_BKCA.shape[:2], 1.0 - step / steps)) / steps, None

        return jax.lax.scan(euler, noise_BKCA, jnp.arange(steps, dtype=jnp.float32))[0]


class ExpertLayer(nnx.Module):
    """Attention over observation and chunk, then a gated feed-forward; both modulated by time and latent (DiT)."""

    def __init__(self, init: Init, config: FlowHeadConfig, attention: AttentionConfig, model: ModelConfig):
        W = config.width
        self.attention = Attention(
            init / "attention", dataclasses.replace(attention, sink=False), W, model.kernels, model.norm
        )
        self.ffn = Dense(init / "dense", W, config.hidden_dim, "gelu")
        self.modulation = init.param("modulation", (W, 6, W), ("embed", None, "embed_out"), fan_in(W, gain=0.3))

    def __call__(self, x_BKCW, condition_BKcW, keys_values: KeysValues, prefix: Prefix) -> jax.Array:
        """`condition_BKcW`: one for the whole chunk (c = 1) or for each action of it."""
        modulation = jnp.einsum("bkcw,wnv->nbkcv", condition_BKcW, self.modulation[...].astype(x_BKCW.dtype))
        scale, shift, gate, ffn_scale, ffn_shift, ffn_gate = modulation
        y = rms_normalise(x_BKCW).astype(x_BKCW.dtype) * (1 + scale) + shift
        x_BKCW = x_BKCW + (1 + gate) * self._attend(y, keys_values, prefix)
        y = rms_normalise(x_BKCW).astype(x_BKCW.dtype) * (1 + ffn_scale) + ffn_shift
        return x_BKCW + (1 + ffn_gate) * self.ffn(y)

    def _attend(self, y_BKCW: jax.Array, keys_values: KeysValues, prefix: Prefix) -> jax.Array:
        """Attention over the observation and over the chunk itself, two disjoint key sets merged by logsumexp."""
        B, K, C, W = y_BKCW.shape
        options = {"scale": self.attention.scale, "softcap": self.attention.config.softcap}
        position_NC = (prefix.position_BK[:, :, None] + jnp.arange(C)).reshape(B * K, C)
        y_NCW = y_BKCW.reshape(B * K, C, W)
        q_NCHh = self.attention.queries(y_NCW, position_NC)
        lo_NC = jnp.zeros((B * K, C), jnp.int32)
        own_keys_values = self.attention.keys_values(y_NCW, position_NC)
        # A chunk is far smaller than a kernel's tile.
        own, own_lse = interval_attention(q_NCHh, *own_keys_values, lo_NC, lo_NC + C, **options, backend="reference")
        flat = lambda x: x.reshape(B, K * C, *x.shape[2:])  # noqa: E731
        lo_BS, hi_BS = jnp.repeat(prefix.lo_BK, C, axis=1), jnp.repeat(prefix.hi_BK, C, axis=1)
        seen, seen_lse = attend_from_rows(
            flat(q_NCHh), *keys_values, lo_BS, hi_BS, **options, backend=self.attention.kernels
        )
        out_BSHh, _ = merge([seen, flat(own)], [seen_lse, flat(own_lse)])
        return jnp.einsum("bshd,hdw->bsw", out_BSHh, self.attention.out[...].astype(y_NCW.dtype)).reshape(B, K, C, W)


def _fourier(tau: jax.Array, width: int) -> jax.Array:
    """Sines and cosines of tau at periods from 0.004 to 4, as in pi0."""
    period = 4e-3 * (4.0 / 4e-3) ** jnp.linspace(0.0, 1.0, width // 2)
    angle = tau[..., None] / period * 2 * math.pi
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
