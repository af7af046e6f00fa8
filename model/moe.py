"""Dropless top-k mixture of experts: route, sort rows by expert, grouped matmul, unsort, combine."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from model.config import Kernels, MoEConfig, NormConfig
from model.dense import ACTIVATIONS, Dense
from model.init import Init, fan_in, ones, zeros
from model.norm import rms_normalise
from pallas_kernels.grouped_matmul import grouped_matmul


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RouterStats:
    """What one MoE layer did with the real (not padding) tokens.

    load_E: float32. Share of the token-to-expert assignments that each expert took; sums to 1.
    entropy: float32[]. Mean entropy of the router's distribution in nats.
    loss: float32[]. Weighted balance loss plus weighted z-loss, to be added to the objective.
    bias_E: float32. The balancing bias for the next step.
    """

    load_E: jax.Array
    entropy: jax.Array
    loss: jax.Array
    bias_E: jax.Array


class MoE(nnx.Module):
    """sum over the top-k experts e of weight_e * expert_e(x), plus the shared expert; no token is ever dropped."""

    def __init__(
        self,
        init: Init,
        config: MoEConfig,
        model_dim: int,
        kernels: Kernels = "auto",
        norm: NormConfig | None = None,
    ):
        D, F, E = model_dim, config.hidden_dim, config.num_experts
        self.config, self.epsilon = config, (norm or NormConfig()).epsilon
        self.kernels: Kernels = kernels
        self.router = init.param("router", (D, E), ("embed", "experts"), fan_in(D))
        self.bias = init.buffer("bias", (E,), ("experts",), zeros)
        if config.router_norm:
            self.router_scale = init.param("router_scale", (D,), ("embed",), ones)
        if config.expert_scale:
            self.expert_scale = init.param("expert_scale", (E,), ("experts",), ones)
        self.gate_up = init.param("gate_up", (E, D, 2 * F), ("experts", "embed", "mlp"), fan_in(D))
        self.down = init.param("down", (E, F, D), ("experts", "mlp", "embed"), fan_in(F))
        if config.shared_dim:
            self.shared = Dense(init / "shared", D, config.shared_dim, config.activation)

    def __call__(
        self, x_BTD: jax.Array, real_BT: jax.Array, routed_BTD: jax.Array | None = None
    ) -> tuple[jax.Array, RouterStats]:
        """`routed_BTD` is what the router reads, if not what the experts do."""
        x_MD, k = x_BTD.reshape(-1, x_BTD.shape[-1]), self.config.top_k
        routed_MD = x_MD if routed_BTD is None else routed_BTD.reshape(x_MD.shape)
        expert_Mk, weight_Mk, stats = self.route(routed_MD, real_BT.reshape(-1))

        order = jnp.argsort(expert_Mk.reshape(-1), stable=True)  # (token, choice) pairs sorted by expert
        sizes_E = jnp.bincount(expert_Mk.reshape(-1), length=self.config.num_experts).astype(jnp.int32)
        # Repeat, then permute: every row is read once, so the gradient is a permutation and a sum of fixed order.
        rows = jnp.repeat(x_MD, k, axis=0).at[order].get(unique_indices=True)
        rows = grouped_matmul(rows, self.gate_up[...].astype(x_MD.dtype), sizes_E, backend=self.kernels)
        gate, up = jnp.split(rows, 2, axis=-1)
        rows = ACTIVATIONS[self.config.activation](gate) * up
        rows = grouped_matmul(rows, self.down[...].astype(x_MD.dtype), sizes_E, backend=self.kernels)

        y_MkD = rows.at[jnp.argsort(order)].get(unique_indices=True).reshape(*expert_Mk.shape, -1)
        y_MD = jnp.einsum("mkd,mk->md", y_MkD, weight_Mk.astype(x_MD.dtype))
        if self.config.shared_dim:
            y_MD = y_MD + self.shared(x_MD)
        return y_MD.reshape(x_BTD.shape), stats

    def route(self, x_MD: jax.Array, real_M: jax.Array) -> tuple[jax.Array, jax.Array, RouterStats]:
        """Choose top-k experts by score + bias; weights are their scores alone, summing to 1, times any expert scale.

        The bias moves the choice, not the output (arXiv 2408.15664). Everything in float32.
        """
        config = self.config
        x_MD = x_MD.astype(jnp.float32)
        if config.router_norm:
            x_MD = rms_normalise(x_MD, self.epsilon) * self.router_scale[...] * x_MD.shape[-1] ** -0.5
        logits_ME = x_MD @ self.router[...]
        scores_ME = jax.nn.softmax(logits_ME) if config.router == "softmax" else jax.nn.sigmoid(logits_ME)
        _, expert_Mk = jax.lax.top_k(scores_ME + self.bias[...], config.top_k)
        weight_Mk = jnp.take_along_axis(scores_ME, expert_Mk, axis=-1)
        weight_Mk = weight_Mk / jnp.maximum(jnp.sum(weight_Mk, axis=-1, keepdims=True), 1e-9)
        if config.expert_scale:
            weight_Mk = weight_Mk * self.expert_scale[...][expert_Mk]

        chosen_ME = jax.nn.one_hot(expert_Mk, config.num_experts).sum(axis=1)
        probability_ME = scores_ME / jnp.sum(scores_ME, axis=-1, keepdims=True)
        load_E = jax.lax.stop_gradient(_mean(chosen_ME, real_M)) / config.top_k
        balance = config.num_experts * jnp.sum(load_E * _mean(probability_ME, real_M))
        z = _mean(jnp.square(jax.nn.logsumexp(logits_ME, axis=-1)), real_M)
        entropy = _mean(-jnp.sum(probability_ME * jnp.log(probability_ME + 1e-9), axis=-1), real_M)
        step_E = jnp.sign(1 / config.num_experts - load_E)
        return (
            expert_Mk,
            weight_Mk,
            RouterStats(
                load_E=load_E,
                entropy=entropy,
                loss=config.balance_loss * balance + config.z_loss * z,
                bias_E=self.bias[...] + config.bias_rate * step_E,
            ),
        )


def _mean(x_M: jax.Array, real_M: jax.Array) -> jax.Array:
    """Mean over the real tokens; x has shape [M] or [M, E]."""
    return jnp.tensordot(real_M.astype(jnp.float32), x_M, axes=1) / jnp.maximum(jnp.sum(real_M), 1)
