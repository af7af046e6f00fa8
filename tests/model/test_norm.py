"""Root-mean-square normalisation in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from model.init import Init
from model.norm import EPSILON, RMSNorm


def test_output_is_the_input_over_its_root_mean_square_times_one_plus_scale():
    norm = RMSNorm(Init(jax.random.key(0)), 5)
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("f4") * 40
    np.testing.assert_array_equal(norm.scale[...], 0)  # starts as plain normalisation
    norm.scale[...] = jnp.array([0.0, 1.0, -1.0, 0.5, 2.0])
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * np.array([1, 2, 0, 1.5, 3])
    np.testing.assert_allclose(norm(jnp.array(x)), expected, rtol=1e-5, atol=1e-6)


def test_statistics_are_float32_and_the_output_has_the_type_of_the_input():
    norm = RMSNorm(Init(jax.random.key(0)), 257)
    x = jnp.array(np.random.default_rng(1).normal(size=(8, 257)), jnp.bfloat16)
    wide = np.asarray(x, "f8")
    expected = jnp.array(wide / np.sqrt((wide**2).mean(-1, keepdims=True) + EPSILON), jnp.bfloat16)
    assert norm(x).dtype == jnp.bfloat16
    assert np.mean(np.asarray(norm(x) == expected)) > 0.99  # rounded once, at the end


def test_zeros_stay_zeros():
    norm = RMSNorm(Init(jax.random.key(0)), 4)
    np.testing.assert_array_equal(norm(jnp.zeros((1, 4))), 0)
