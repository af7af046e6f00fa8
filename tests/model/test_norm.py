"""Root-mean-square normalisation in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from model.config import NormConfig
from model.init import Init
from model.norm import RMSNorm


def test_output_is_the_input_over_its_root_mean_square_times_one_plus_scale():
    norm = RMSNorm(Init(jax.random.key(0)), 5)
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("f4") * 40
    np.testing.assert_array_equal(norm.scale[...], 0)  # starts as plain normalisation
    norm.scale[...] = jnp.array([0.0, 1.0, -1.0, 0.5, 2.0])
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * np.array([1, 2, 0, 1.5, 3])
    np.testing.assert_allclose(norm(jnp.array(x)), expected, rtol=1e-5, atol=1e-6)


def test_statistics_are_float32_and_the_output_has_the_type_of_the_input():
    norm = RMSNorm(Init(jax.random.key(0)), 257)
    x = jnp.array(np.random.default_rng(1).normal(size=(8, 257)), jnp.bfloat16)
    wide = np.asarray(x, "f8")
    expected = jnp.array(wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6), jnp.bfloat16)
    assert norm(x).dtype == jnp.bfloat16
    assert np.mean(np.asarray(norm(x) == expected)) > 0.99  # rounded once, at the end


def test_zeros_stay_zeros():
    norm = RMSNorm(Init(jax.random.key(0)), 4)
    np.testing.assert_array_equal(norm(jnp.zeros((1, 4))), 0)


def test_without_offset_the_scale_itself_multiplies():
    norm = RMSNorm(Init(jax.random.key(0)), 4, config=NormConfig(epsilon=0.5, offset=False))
    x = np.random.default_rng(2).normal(size=(3, 4)).astype("f4")
    np.testing.assert_array_equal(norm.scale[...], 1)  # starts as plain normalisation
    norm.scale[...] = jnp.array([0.5, 1.0, -1.0, 2.0])
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.5) * np.array([0.5, 1, -1, 2])
    np.testing.assert_allclose(norm(jnp.array(x)), expected, rtol=1e-5)
