"""The image embedder against strided convolutions over the whole picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import ImageConfig
from model.embedders.image import ImageEmbedder
from model.init import Init
from tests.model.weights import random_like

CONFIG = ImageConfig(height=16, width=24, patch_size=8, stem_stride=4, stem_dim=6)
WEIGHTS = ("conv", "conv_bias", "residual_in", "residual_out", "patch", "row", "column")
D = 10
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def embedder():
    module = ImageEmbedder(Init(jax.random.key(0)), CONFIG, D)
    for seed, name in enumerate(WEIGHTS):
        getattr(module, name)[...] = random_like(getattr(module, name), seed)
    return module


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (1, 2, 16, 24, 3), np.uint8)


def convolution(x, kernel, stride):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "VALID", dimension_numbers=dimensions)


def test_patches_are_strided_convolutions_in_raster_order_plus_row_and_column(embedder, pixels):
    weight = {name: getattr(embedder, name)[...] for name in WEIGHTS}
    x = jnp.array(pixels[0], jnp.float32) / 127.5 - 1
    x = convolution(x, weight["conv"].reshape(4, 4, 3, 6), 4) + weight["conv_bias"]
    hidden = jax.nn.gelu(convolution(x, weight["residual_in"][None, None], 1))
    x = jax.nn.gelu(x + convolution(hidden, weight["residual_out"][None, None], 1))
    x = convolution(x, weight["patch"].reshape(2, 2, 6, D), 2)
    assert x.shape == (2, 2, 3, D)  # two images of two rows and three columns
    expected = (x + weight["row"] + weight["column"]).reshape(2, 6, D)
    np.testing.assert_allclose(embedder(jnp.array(pixels), jnp.float32)[0], expected, atol=2e-5)


def test_a_pixel_reaches_its_own_patch_alone(embedder, pixels):
    changed = pixels.copy()
    changed[0, 1, 9, 17] = 255 - changed[0, 1, 9, 17]  # second row, third column: patch 5
    difference = np.abs(embedder(jnp.array(changed), jnp.float32) - embedder(jnp.array(pixels), jnp.float32))
    assert np.flatnonzero(difference.max(axis=(0, 3))[1]).tolist() == [5]
    assert difference[0, 0].max() == 0
