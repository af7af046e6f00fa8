"""Rotary embedding: a rotation of pairs whose dot products know relative positions alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from model.rope import rotate

T, H, h = 9, 2, 8


def vectors(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, T, H, h)).astype("f4")


@pytest.mark.parametrize(("base", "scale"), [(10_000.0, 1.0), (1e6, 8.0)])
def test_pairs_turn_by_position_over_scale_times_a_falling_frequency(base, scale):
    x, positions = vectors(0), np.array([[0, 1, 2, 3, 10, 100, 1000, 5000, 9000]])
    i = np.arange(h // 2)
    turn = np.exp(1j * (positions / scale)[:, :, None, None] * base ** (-2 * i / h))
    expected = (x[..., : h // 2] + 1j * x[..., h // 2 :]) * turn
    rotated = rotate(jnp.array(x), jnp.array(positions), base, scale)
    np.testing.assert_allclose(rotated, np.concatenate([expected.real, expected.imag], axis=-1), atol=2e-3)
    np.testing.assert_allclose(rotated[:, :5], np.concatenate([expected.real, expected.imag], -1)[:, :5], atol=1e-5)


@pytest.mark.parametrize(("fraction", "turning"), [(0.25, 1), (0.5, 2), (0.9, 3), (1.0, 4)])
def test_a_fraction_turns_the_fastest_pairs_as_before_and_leaves_the_others(fraction, turning):
    x, positions = vectors(5), jnp.arange(T)[None]
    whole = rotate(jnp.array(x), positions, 100.0, 2.0)
    rotated = rotate(jnp.array(x), positions, 100.0, 2.0, fraction)
    turns = np.arange(h) % (h // 2) < turning
    np.testing.assert_array_equal(rotated[..., turns], whole[..., turns])
    np.testing.assert_array_equal(rotated[..., ~turns], x[..., ~turns])


def test_dot_products_depend_on_relative_positions_alone():
    q, k, positions = vectors(1), vectors(2), jnp.arange(T)[None]
    scores = []
    for start in (0, 700):
        q_rot, k_rot = (rotate(jnp.array(x), positions + start, 10_000.0, 1.0) for x in (q, k))
        scores.append(np.einsum("bthd,bshd->bhts", q_rot, k_rot))
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-3)
    assert np.abs(scores[0] - np.einsum("bthd,bshd->bhts", q, k)).max() > 1


def test_lengths_are_kept_and_position_zero_turns_nothing():
    x = vectors(3)
    rotated = rotate(jnp.array(x), jnp.arange(T)[None], 100.0, 1.0)
    np.testing.assert_allclose(np.linalg.norm(rotated, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(rotated[:, 0], x[:, 0])


def test_angles_are_float32_whatever_the_vectors_are():
    """At position 3000 a bfloat16 angle would be off by several turns."""
    x, positions = vectors(4), jnp.full((1, T), 3001)
    exact = rotate(jnp.array(x), positions, 10_000.0, 1.0)
    rounded = rotate(jnp.array(x, jnp.bfloat16), positions, 10_000.0, 1.0)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, atol=0.05)
