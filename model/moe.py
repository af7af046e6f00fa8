"""Dropless top-k mixture of experts: route, rows to their experts, grouped matmul, rows back, combine."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, PartitionSpec

from model.config import Kernels, MoEConfig, NormConfig
from model.dense import ACTIVATIONS, Dense, gated
from model.init import Init, fan_in, ones, zeros
from model.norm import rms_normalise
from pallas_kernels.grouped_matmul import grouped_matmul
from sharding.experts import through_groups
from sharding.mesh import TOKEN_AXES, ambient_mesh, token_spec
from sharding.rules import gathered, spec_for

WEIGHTS = ("router", "bias", "router_scale", "expert_scale", "gate_up", "down")
MATRICES = ("gate_up", "down", "gate", "up")  # in the dtype of the activations, sliced by experts and hidden units


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
        """`routed_BTD` is what the router reads, if not what the experts do.

        On a mesh, tokens travel to the devices that hold their experts, and the statistics are those of all tokens.

        Raises:
            ValueError: rows, slots or hidden units that the mesh does not divide.
        """
        params = {name: getattr(self, name) for name in WEIGHTS if hasattr(self, name)}
        if self.config.shared_dim:
            params |= {f"shared/{name}": getattr(self.shared, name) for name in ("gate", "up", "down")}
        weights = {name: param[...] for name, param in params.items()}
        weights |= {name: weights[name].astype(x_BTD.dtype) for name in weights if name.endswith(MATRICES)}
        mesh = ambient_mesh()
        if mesh is None:
            return self._mixture(weights, x_BTD, real_BT, routed_BTD)
        # Without the leading axis of stacked layers, which are scanned over.
        axes = {name: param.get_metadata("axes")[-weights[name].ndim :] for name, param in params.items()}
        return self._on_shards(mesh, weights, axes, x_BTD, real_BT, routed_BTD)

    def _on_shards(self, mesh: AbstractMesh, weights, axes, x_BTD, real_BT, routed_BTD):
        """Every device's own tokens, with the weights of its own experts and hidden units."""
        placed = {name: spec_for(axes[name], mesh, w.shape, f"moe/{name}") for name, w in weights.items()}
        weights["gate_up"] = _interleaved(weights["gate_up"], mesh.shape["tensor"])
        tokens = token_spec(mesh, *x_BTD.shape[:2])

        def on_shard(weights, x_BTD, real_BT, routed_BTD):
            # The router chooses among all experts; of matrices, each device has its experts' and hidden units'.
            keep = lambda name: ("expert", "tensor") if name.endswith(MATRICES) else ()  # noqa: E731
            weights = {name: gathered(w, placed[name], keep(name)) for name, w in weights.items()}
            return self._mixture(weights, x_BTD, real_BT, routed_BTD, mesh)

        return jax.shard_map(
            on_shard,
            in_specs=(placed, tokens, tokens, tokens),
            out_specs=(tokens, PartitionSpec()),
            check_vma=False,  # kernels do not say along which axes their results vary
        )(weights, x_BTD, real_BT, routed_BTD)

    def _mixture(self, weights, x_BTD, real_BT, routed_BTD, mesh: AbstractMesh | None = None):
        """What the layer returns, for these tokens; if there is a mesh, they are one device's, in a `shard_map`."""
        x_MD = x_BTD.reshape(-1, x_BTD.shape[-1])
        routed_MD = x_MD if routed_BTD is None else routed_BTD.reshape(x_MD.shape)
        total = functools.partial(jax.lax.psum, axis_name=TOKEN_AXES) if mesh else lambda x: x
        expert_Mk, weight_Mk, stats = self.route(weights, routed_MD, real_BT.reshape(-1), total)
        y_MkD, shared_MD = through_groups(
            self._experts,
            (weights["gate_up"], weights["down"]),
            x_MD,
            expert_Mk,
            self.config.num_experts,
            axis="expert" if mesh and mesh.shape["expert"] > 1 else None,
            beside=self._shared if self.config.shared_dim else None,
            beside_weights=[weights.get(f"shared/{name}") for name in ("gate", "up", "down")],
        )
        y_MD = jnp.einsum("mkd,mk->md", y_MkD, weight_Mk.astype(x_MD.dtype))
        y_MD = y_MD if shared_MD is None else y_MD + shared_MD
        return (jax.lax.psum(y_MD, "tensor") if mesh else y_MD).reshape(x_BTD.shape), stats

    def _experts(self, matrices: tuple[jax.Array, jax.Array], rows: jax.Array, sizes_E: jax.Array) -> jax.Array:
        gate_up, down = matrices
        gate, up = jnp.split(grouped_matmul(rows, gate_up, sizes_E, backend=self.kernels), 2, axis=-1)
        rows = ACTIVATIONS[self.config.activation](gate) * up
        return grouped_matmul(rows, down, sizes_E, backend=self.kernels)

    def _shared(self, matrices: Sequence[jax.Array], x_MD: jax.Array) -> jax.Array:
        return gated(matrices, x_MD, self.config.activation)

    def route(
        self,
        weights: dict[str, jax.Array],
        x_MD: jax.Array,
        real_M: jax.Array,
        total: Callable[[jax.Array], jax.Array],
    ) -> tuple[jax.Array, jax.Array, RouterStats]:
        """Choose top-k experts by score + bias; weights are their scores alone, summing to 1, times any expert scale.

        The bias moves the choice, not the output (arXiv 2408.15664). Everything in float32. `total` sums over devices
        with other tokens.
        """
        config = self.config
        x_MD = x_MD.astype(jnp.float32)
        if config.router_norm:
            x_MD = rms_normalise(x_MD, self.epsilon) * weights["router_scale"] * x_MD.shape[-1] ** -0.5
        logits_ME = x_MD @ weights["router"]
        scores_ME = jax.nn.softmax(logits_ME) if config.router == "softmax" else jax.nn.sigmoid(logits_ME)
        _, expert_Mk = jax.lax.top_k(scores_ME + weights["bias"], config.top_k)
        weight_Mk = jnp.take_along_axis(scores_ME, expert_Mk, axis=-1)
        weight_Mk = weight_Mk / jnp.maximum(jnp.sum(weight_Mk, axis=-1, keepdims=True), 1e-9)
        if config.expert_scale:
            weight_Mk = weight_Mk * weights["expert_scale"][expert_Mk]

        mean = functools.partial(_mean, real_M=real_M, total=total)
        chosen_ME = jax.nn.one_hot(expert_Mk, config.num_experts).sum(axis=1)
        probability_ME = scores_ME / jnp.sum(scores_ME, axis=-1, keepdims=True)
        load_E = jax.lax.stop_gradient(mean(chosen_ME)) / config.top_k
        balance = config.num_experts * jnp.sum(load_E * mean(probability_ME))
        z = mean(jnp.square(jax.nn.logsumexp(logits_ME, axis=-1)))
        entropy = mean(-jnp.sum(probability_ME * jnp.log(probability_ME + 1e-9), axis=-1))
        step_E = jnp.sign(1 / config.num_experts - load_E)
        return (
            expert_Mk,
            weight_Mk,
            RouterStats(
                load_E=load_E,
                entropy=entropy,
                loss=config.balance_loss * balance + config.z_loss * z,
                bias_E=weights["bias"] + config.bias_rate * step_E,
            ),
        )


def _interleaved(gate_up_EDF: jax.Array, shards: int) -> jax.Array:
    """[gates, values] in another order: cut into `shards`, each has the gates and the values of the same units."""
    if shards == 1:
        return gate_up_EDF
    E, D, _ = gate_up_EDF.shape
    return gate_up_EDF.reshape(E, D, 2, shards, -1).swapaxes(2, 3).reshape(E, D, -1)


def _mean(x_M: jax.Array, real_M: jax.Array, total: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Mean over the real tokens; x has shape [M] or [M, E]."""
    return total(jnp.tensordot(real_M.astype(jnp.float32), x_M, axes=1)) / jnp.maximum(total(jnp.sum(real_M)), 1)
