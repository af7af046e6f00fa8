"""Image patches through a small residual stem inside each patch, plus learned row and column positions (Gato, 2.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from model.config import ImageConfig
from model.init import Init, fan_in, normal, zeros


class ImageEmbedder(nnx.Module):
    """uint8[B,M,height,width,3] -> float[B,M,P,D].

    Inside a patch: a convolution of stride `stem_stride` with its kernel of the same size, a 1x1 residual layer, then
    one dense layer over the patch. No kernel reaches over a patch's edge, so each convolution is a matrix product.
    """

    def __init__(self, init: Init, config: ImageConfig, model_dim: int):
        self.config, D, C = config, model_dim, config.stem_dim
        cells = (config.patch_size // config.stem_stride) ** 2
        pixels = 3 * config.stem_stride**2
        self.conv = init.param("conv", (pixels, C), ("pixels", "stem"), fan_in(pixels))
        self.conv_bias = init.param("conv_bias", (C,), ("stem",), zeros)
        self.residual_in = init.param("residual_in", (C, 2 * C), ("stem", "stem_mlp"), fan_in(C))
        self.residual_out = init.param("residual_out", (2 * C, C), ("stem_mlp", "stem"), fan_in(2 * C))
        self.patch = init.param("patch", (cells, C, D), ("cells", "stem", "embed"), fan_in(cells * C))
        rows, columns = config.height // config.patch_size, config.width // config.patch_size
        self.row = init.param("row", (rows, 1, D), ("patch_row", None, "embed"), normal(0.5))
        self.column = init.param("column", (1, columns, D), (None, "patch_column", "embed"), normal(0.5))

    def __call__(self, pixels_BMHWc: jax.Array, dtype: jnp.dtype) -> jax.Array:
        x = self._cells(pixels_BMHWc).astype(dtype) / 127.5 - 1.0
        x = x @ self.conv[...].astype(dtype) + self.conv_bias[...].astype(dtype)
        x = x + jax.nn.gelu(x @ self.residual_in[...].astype(dtype)) @ self.residual_out[...].astype(dtype)
        x_BMPD = jnp.einsum("bmpsc,scd->bmpd", jax.nn.gelu(x), self.patch[...].astype(dtype))
        position_PD = (self.row[...] + self.column[...]).reshape(-1, x_BMPD.shape[-1])
        return x_BMPD + position_PD.astype(dtype)

    def _cells(self, pixels: jax.Array) -> jax.Array:
        """[B,M,height,width,3] -> [B,M,patches,cells of a patch,pixels of a cell], all in raster order."""
        B, M, height, width, _ = pixels.shape
        size, stride = self.config.patch_size, self.config.stem_stride
        n = size // stride
        x = pixels.reshape(B, M, height // size, n, stride, width // size, n, stride, 3)
        return x.transpose(0, 1, 2, 5, 3, 6, 4, 7, 8).reshape(B, M, self.config.num_patches, n * n, stride * stride * 3)
