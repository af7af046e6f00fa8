"""Pictures through a SigLIP encoder, averaged to soft tokens and projected to the model's width (Gemma 3, 2.1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from model.config import ModelConfig, NormConfig, SiglipConfig
from model.embedders.vision_block import Affine, LayerNorm, VisionBlock
from model.init import Init, fan_in, normal
from model.norm import RMSNorm
from model.remat import rematerialised


class SiglipEmbedder(nnx.Module):
    """uint8[B,M,height,width,3] -> float[B,M,P,D], P the config's `num_slots` in raster order."""

    def __init__(self, init: Init, config: SiglipConfig, model: ModelConfig):
        E = config.encoder_dim
        self.config = config
        self.encoder = SiglipEncoder(init / "encoder", config, model)
        self.norm = RMSNorm(init / "norm", E, "vision", NormConfig(config.epsilon))
        self.projector = init.param("projector", (E, model.model_dim), ("vision_in", "embed"), fan_in(E))

    def __call__(self, pixels_BMHWc: jax.Array, dtype: jnp.dtype) -> jax.Array:
        B, M, height, width, _ = pixels_BMHWc.shape
        x_NPE = self.encoder(pixels_BMHWc.reshape(B * M, height, width, 3), dtype)
        x_NPE = self.norm(self._pooled(x_NPE))
        return (x_NPE @ self.projector[...].astype(dtype)).reshape(B, M, self.config.num_slots, -1)

    def _pooled(self, x_NPE: jax.Array) -> jax.Array:
        """Means over squares of `pool` x `pool` patches."""
        side, columns = self.config.pool, self.config.width // self.config.patch_size
        x = x_NPE.reshape(x_NPE.shape[0], -1, side, columns // side, side, x_NPE.shape[-1])
        return x.mean((2, 4)).reshape(x_NPE.shape[0], self.config.num_slots, -1)


class SiglipEncoder(nnx.Module):
    """uint8[N,height,width,3] -> float[N,P,E]: patches with learned positions, `num_layers` blocks, a last norm.

    `blocks` holds the layers stacked, with one compiled body for all where the model scans over its own.
    """

    def __init__(self, init: Init, config: SiglipConfig, model: ModelConfig):
        E, pixels = config.encoder_dim, 3 * config.patch_size**2
        self.config, self.scan, self.remat = config, model.scan, model.remat
        self.patch = Affine(init / "patch", {"pixels": pixels}, {"vision": E})
        self.position = init.param("position", (config.num_patches, E), ("patch", "vision"), normal(E**-0.5))
        layers = tuple(range(config.num_layers))
        self.blocks = VisionBlock((init / "blocks").stacked(layers), config, model.kernels)
        self.norm = LayerNorm(init / "norm", E, config.epsilon)

    def __call__(self, pixels_NHWc: jax.Array, dtype: jnp.dtype) -> jax.Array:
        patches = (self._patches(pixels_NHWc).astype(jnp.float32) / 127.5 - 1.0).astype(dtype)
        x_NPE = self.patch(patches) + self.position[...].astype(dtype)
        graph, stacked = nnx.split(self.blocks)

        def layer(x_NPE, state):
            return rematerialised(nnx.merge(graph, state), self.remat)(x_NPE), None

        if self.scan:
            x_NPE, _ = jax.lax.scan(layer, x_NPE, stacked)
        else:
            for i in range(self.config.num_layers):
                x_NPE, _ = layer(x_NPE, jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
        return self.norm(x_NPE)

    def _patches(self, pixels_NHWc: jax.Array) -> jax.Array:
        """[N,height,width,3] -> [N,P,pixels of a patch], all in raster order."""
        N, height, width, _ = pixels_NHWc.shape
        size = self.config.patch_size
        x = pixels_NHWc.reshape(N, height // size, size, width // size, size, 3)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(N, self.config.num_patches, 3 * size**2)
