"""The SigLIP embedder: patches in raster order, means over squares, one layer for all or each by itself.

That it computes what HF transformers computes is shown in tests/serving/interchange/test_gemma3_images.py.
"""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import AttentionConfig, DenseConfig, ModelConfig, SiglipConfig
from model.model import create, join, split
from pallas_kernels.backend import emulate
from tests.model.weights import random_states

IMAGE = SiglipConfig("siglip", 16, 24, patch_size=4, pool=2, encoder_dim=12, num_layers=3, hidden_dim=20, num_heads=3)
D = 10
pytestmark = pytest.mark.usefixtures("quick_compilation")


def config(**changes) -> ModelConfig:
    attention = AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=4)
    layers = {"num_layers": 1, "pattern": ("global",), "ffn": ("dense",), "dense": DenseConfig(8)}
    return ModelConfig(**({"model_dim": D, "global_attention": attention, "image": IMAGE} | layers | changes))


@pytest.fixture(scope="module")
def params():
    return {"image": random_states(config(), 8, std=0.3)[1]["image"]}


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (2, 2, 16, 24, 3), np.uint8)


def embedder(params, **changes):
    graph, own, _ = split(jax.eval_shape(lambda: create(config(**changes), 8, 0)))
    return join(graph, own | params, {}).image


def test_every_picture_gives_its_slots_by_itself(params, pixels):
    found = embedder(params)(pixels, jnp.float32)
    assert found.shape == (2, 2, 6, D)
    assert IMAGE.num_slots == 6
    alone = embedder(params)(pixels[1:, :1], jnp.float32)
    np.testing.assert_allclose(found[1:, :1], alone, atol=1e-5)


def test_patches_are_a_convolution_of_the_scaled_pixels(params, pixels):
    """Seen through an encoder without layers, norms and projector: compared before the blocks."""
    encoder = embedder(params).encoder
    kernel = params["image"]["encoder"]["patch"]["kernel"].reshape(4, 4, 3, 12)
    scaled = jnp.asarray(pixels[0], jnp.float32) / 127.5 - 1
    wanted = jax.lax.conv_general_dilated(scaled, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    found = encoder._patches(scaled) @ kernel.reshape(48, 12)
    np.testing.assert_allclose(found, wanted.reshape(2, 24, 12), atol=1e-5)


def test_a_slot_is_the_mean_of_a_square_of_patches(params):
    x_NPE = np.random.default_rng(1).normal(size=(2, 24, 12)).astype("f4")
    grid = x_NPE.reshape(2, 4, 6, 12)
    wanted = [grid[:, r : r + 2, c : c + 2].mean((1, 2)) for r in (0, 2) for c in (0, 2, 4)]
    np.testing.assert_allclose(embedder(params)._pooled(jnp.asarray(x_NPE)), np.stack(wanted, 1), atol=1e-6)


def test_every_pixel_reaches_every_slot_of_its_picture_and_none_of_another(params, pixels):
    changed = pixels.copy()
    changed[0, 1, 15, 23] = 255 - changed[0, 1, 15, 23]
    apart = embedder(params)(changed, jnp.float32) - embedder(params)(pixels, jnp.float32)
    reached = np.abs(apart).max(-1) > 1e-6
    assert reached[0, 1].all()
    assert reached.sum() == 6


@pytest.mark.parametrize("changes", [{"scan": False}, {"remat": "block"}, {"remat": "dots", "scan": False}])
def test_how_its_layers_are_run_changes_neither_output_nor_gradients(changes, params, pixels):
    def both(**changes):
        def total(params):
            x = embedder(params, **changes)(pixels, jnp.float32)
            return jnp.sum(x * jnp.cos(jnp.arange(x.size).reshape(x.shape))), x

        (_, x), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
        return x, gradients

    for found, wanted in zip(*(jax.tree.leaves(both(**c)) for c in (changes, {})), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5 * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize(("backend", "dtype", "tolerance"), [("gpu", jnp.bfloat16, 3e-2), ("tpu", jnp.float32, 2e-3)])
def test_heads_of_a_width_that_no_kernel_has_run_in_one_all_the_same(backend, dtype, tolerance, caplog):
    """As So400m's heads of 72."""
    image = SiglipConfig("siglip", 16, 32, 4, pool=2, encoder_dim=72, num_layers=1, hidden_dim=8, num_heads=1)
    weights = {"image": random_states(config(image=image), 8, std=0.1)[1]["image"]}
    pixels = np.random.default_rng(0).integers(0, 256, (1, 1, 16, 32, 3), np.uint8)
    see = lambda: np.asarray(embedder(weights, image=image)(pixels, dtype), np.float32)  # noqa: E731
    wanted = see()
    with caplog.at_level(logging.WARNING), emulate(backend):
        found = see()
    assert "reference" not in caplog.text
    np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max())


def test_its_layers_have_the_same_weights_in_both_forms():
    one, each = (split(create(config(scan=scan), 8, 0))[1]["image"] for scan in (True, False))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, each))
    stacked = one["encoder"]["blocks"]["up"]["kernel"]
    assert stacked.shape == (3, 12, 20)
    assert not np.array_equal(stacked[0], stacked[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 5}, r"patch_size is 5; allowed: a divisor of height and width \(16 x 24\)"),
        ({"pool": 3}, r"pool is 3; allowed: a number that times patch_size \(4\) divides height and width"),
        ({"num_heads": 5}, r"num_heads is 5; allowed: a divisor of encoder_dim \(12\)"),
        ({"num_layers": 0}, "num_layers is 0; allowed: positive"),
        ({"epsilon": 0.0}, r"epsilon is 0\.0; allowed: positive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_the_field(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(IMAGE, **changes)
