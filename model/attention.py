"""Local and global attention: one interval attention, [lo, hi) per row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from model.cache import KeyValueCache
from model.config import AttentionConfig, Kernels, NormConfig
from model.init import Init, fan_in, zeros
from model.norm import RMSNorm, rms_normalise
from model.rope import rotate
from model.sharded_attention import attend
from model.structure import Structure
from pallas_kernels.interval_attention import apply_sink


class Attention(nnx.Module):
    """Grouped-query attention over the keys that the structure's intervals allow."""

    def __init__(
        self,
        init: Init,
        config: AttentionConfig,
        model_dim: int,
        kernels: Kernels = "auto",
        norm: NormConfig | None = None,
        longest_span: int = 1,
    ):
        self.longest_span = longest_span  # most slots that see each other in both directions
        D, H, K, h = model_dim, config.num_heads, config.num_kv_heads, config.head_dim
        self.config, self.epsilon = config, (norm or NormConfig()).epsilon
        self.kernels: Kernels = kernels
        self.query = init.param("query", (D, H, h), ("embed", "heads", "head_dim"), fan_in(D))
        self.key = init.param("key", (D, K, h), ("embed", "kv_heads", "head_dim"), fan_in(D))
        if not config.tied_values:
            self.value = init.param("value", (D, K, h), ("embed", "kv_heads", "head_dim"), fan_in(D))
        self.out = init.param("out", (H, h, D), ("heads", "head_dim", "embed"), fan_in(H * h))
        if config.qk_norm:
            self.query_norm = RMSNorm(init / "query_norm", h, "head_dim", norm)
            self.key_norm = RMSNorm(init / "key_norm", h, "head_dim", norm)
        if config.sink:
            self.sink = init.param("sink", (H,), ("heads",), zeros)

    def __call__(
        self, x_BTD: jax.Array, structure: Structure, cache: KeyValueCache | None = None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | KeyValueCache]:
        """Returns out_BTD and the rotated keys and values (k_BTKh, v_BTKh), or the given cache with them."""
        k_BTKh, v_BTKh = self.keys_values(x_BTD, structure.positions_BT)
        q_BTHh = self.queries(x_BTD, structure.positions_BT)
        window = self.config.window
        options = {"scale": self.scale, "softcap": self.config.softcap, "backend": self.kernels}
        if cache is None:
            out_BTHh, lse_BTH = attend(q_BTHh, k_BTKh, v_BTKh, structure, window, self.longest_span, **options)
            kept = (k_BTKh, v_BTKh)
        else:
            out_BTHh, lse_BTH, kept = cache.attend(q_BTHh, k_BTKh, v_BTKh, structure, window, **options)
        if self.config.sink:
            out_BTHh = apply_sink(out_BTHh, lse_BTH, self.sink[...])
        # Not einsum, which would sum over h before H and so turn the weights around in every step.
        return jnp.tensordot(out_BTHh, self.out[...].astype(x_BTD.dtype), axes=2), kept

    @property
    def scale(self) -> float:
        return self.config.query_scale or self.config.head_dim**-0.5

    def queries(self, x_BTD: jax.Array, positions_BT: jax.Array) -> jax.Array:
        q_BTHh = jnp.einsum("btm,mhd->bthd", x_BTD, self.query[...].astype(x_BTD.dtype))
        if self.config.qk_norm:
            q_BTHh = self.query_norm(q_BTHh)
        return self.rotated(q_BTHh, positions_BT)

    def keys_values(self, x_BTD: jax.Array, positions_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        k_BTKh = jnp.einsum("btm,mkd->btkd", x_BTD, self.key[...].astype(x_BTD.dtype))
        value = self.key if self.config.tied_values else self.value
        v_BTKh = jnp.einsum("btm,mkd->btkd", x_BTD, value[...].astype(x_BTD.dtype))
        if self.config.qk_norm:
            k_BTKh = self.key_norm(k_BTKh)
        if self.config.value_norm:
            v_BTKh = rms_normalise(v_BTKh, self.epsilon).astype(v_BTKh.dtype)
        return self.rotated(k_BTKh, positions_BT), v_BTKh

    def rotated(self, x_BTHh: jax.Array, positions_BT: jax.Array) -> jax.Array:
        config = self.config
        return rotate(x_BTHh, positions_BT, config.rope_base, config.rope_scale, config.rope_fraction)
