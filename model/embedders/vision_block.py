"""One layer of an image encoder: every patch sees every other (ViT, arXiv 2010.11929; SigLIP, arXiv 2303.15343)."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from model.config import Kernels, SiglipConfig
from model.dense import ACTIVATIONS
from model.init import Init, fan_in, ones, zeros
from pallas_kernels import backend as backends
from pallas_kernels.interval_attention import interval_attention
from sharding.mesh import BATCH_AXES, ambient_mesh

_KERNEL_WIDTHS = (64, 128, 256)  # of heads


class LayerNorm(nnx.Module):
    """(x - mean) / std * scale + bias; statistics in float32, output in the input's dtype. Shape of x: [..., dim]."""

    def __init__(self, init: Init, dim: int, epsilon: float):
        self.epsilon = epsilon
        self.scale = init.param("scale", (dim,), ("vision",), ones)
        self.bias = init.param("bias", (dim,), ("vision",), zeros)

    def __call__(self, x: jax.Array) -> jax.Array:
        centred = x.astype(jnp.float32)
        centred -= centred.mean(-1, keepdims=True)
        normalised = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + self.epsilon)
        return (normalised * self.scale[...] + self.bias[...]).astype(x.dtype)


class Affine(nnx.Module):
    """A linear map with a bias from the last axes of x; `inputs` and `outputs` are sizes by logical axis."""

    def __init__(self, init: Init, inputs: dict[str, int], outputs: dict[str, int]):
        shape, fan = (*inputs.values(), *outputs.values()), math.prod(inputs.values())
        self.num_inputs = len(inputs)
        self.kernel = init.param("kernel", shape, (*inputs, *outputs), fan_in(fan))
        self.bias = init.param("bias", tuple(outputs.values()), tuple(outputs), zeros)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tensordot(x, self.kernel[...].astype(x.dtype), self.num_inputs) + self.bias[...].astype(x.dtype)


class VisionBlock(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) with one hidden layer of tanh-GELU. Shape of x: [N,P,E]."""

    def __init__(self, init: Init, config: SiglipConfig, kernels: Kernels):
        width, mlp = {"vision": config.encoder_dim}, {"mlp": config.hidden_dim}
        heads = {"heads": config.num_heads, "head_dim": config.encoder_dim // config.num_heads}
        self.kernels: Kernels = kernels
        self.attention_norm = LayerNorm(init / "attention_norm", config.encoder_dim, config.epsilon)
        self.query = Affine(init / "query", width, heads)
        self.key = Affine(init / "key", width, heads)
        self.value = Affine(init / "value", width, heads)
        self.out = Affine(init / "out", heads, width)
        self.mlp_norm = LayerNorm(init / "mlp_norm", config.encoder_dim, config.epsilon)
        self.up = Affine(init / "up", width, mlp)
        self.down = Affine(init / "down", mlp, width)

    def __call__(self, x_NPE: jax.Array) -> jax.Array:
        x_NPE = x_NPE + self._attention(self.attention_norm(x_NPE))
        return x_NPE + self.down(ACTIVATIONS["gelu"](self.up(self.mlp_norm(x_NPE))))

    def _attention(self, x_NPE: jax.Array) -> jax.Array:
        q_NPHh, k_NPHh, v_NPHh = self.query(x_NPE), self.key(x_NPE), self.value(x_NPE)
        attend, mesh = functools.partial(_attend, kernels=self.kernels), ambient_mesh()
        if mesh is not None:
            heads = PartitionSpec(BATCH_AXES, None, "tensor")  # every context shard has all images of its rows
            attend = jax.shard_map(attend, in_specs=heads, out_specs=heads, check_vma=False)
        return self.out(attend(q_NPHh, k_NPHh, v_NPHh))


def _attend(q_NPHh: jax.Array, k_NPHh: jax.Array, v_NPHh: jax.Array, *, kernels: Kernels) -> jax.Array:
    """Every patch to all patches of its image."""
    first_NP, width = jnp.zeros(q_NPHh.shape[:2], jnp.int32), q_NPHh.shape[-1]
    q_NPHh, k_NPHh, v_NPHh = _as_wide_as_kernels_take(q_NPHh, k_NPHh, v_NPHh, kernels)
    keys, options = (first_NP, first_NP + q_NPHh.shape[1]), {"scale": width**-0.5, "backend": kernels}
    return interval_attention(q_NPHh, k_NPHh, v_NPHh, *keys, **options)[0][..., :width]


def _as_wide_as_kernels_take(
    q_NPHh: jax.Array, k_NPHh: jax.Array, v_NPHh: jax.Array, kernels: Kernels
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Heads with zeros at their end, which change no score, where a kernel serves them so: So400m's are 72 wide."""
    width = q_NPHh.shape[-1]
    wide = min((served for served in _KERNEL_WIDTHS if served >= width), default=width)
    widened = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, wide - width)))  # noqa: E731
    shapes = [jax.eval_shape(widened, x) for x in (q_NPHh, k_NPHh)]
    if wide == width or backends.select("interval_attention", kernels, *shapes, softcap=None) == "reference":
        return q_NPHh, k_NPHh, v_NPHh
    return widened(q_NPHh), widened(k_NPHh), widened(v_NPHh)
