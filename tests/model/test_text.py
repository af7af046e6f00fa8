"""Token embeddings: one table, and a smooth part for ids that are numbers in order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.embedders.text import TokenEmbedder, number_features
from model.init import Init

V, D, CODES = 20, 16, 8


def embedder(num_codes):
    return TokenEmbedder(Init(jax.random.key(0)), V, D, scale=True, num_codes=num_codes)


def test_an_embedding_is_a_row_of_the_table_times_the_root_of_the_width():
    plain = embedder(0)
    x_BTD = plain(jnp.array([[3, 19]]), jnp.float32)
    np.testing.assert_allclose(x_BTD, plain.weights()[jnp.array([[3, 19]])] * 4.0, rtol=1e-6)
    assert not hasattr(plain, "smooth")


def test_codes_begin_as_a_linear_map_of_their_number_and_text_does_not_change():
    codes, plain = embedder(CODES), embedder(0)
    np.testing.assert_array_equal(codes.weights()[:-CODES], plain.weights()[:-CODES])
    np.testing.assert_allclose(codes.weights()[-CODES:], number_features(CODES) @ codes.smooth[...], rtol=1e-6)


@pytest.mark.parametrize("num_codes", [2, 64, 1024])
def test_features_have_unit_length_tell_neighbours_apart_and_fall_off_with_distance(num_codes):
    features_nF = number_features(num_codes)
    likeness = features_nF @ features_nF.T
    np.testing.assert_allclose(np.diag(likeness), 1, rtol=1e-5)
    apart = [np.diag(likeness, distance).mean() for distance in range(min(num_codes, 16))]
    assert max(apart[1:]) == apart[1] < 0.99
    assert features_nF.shape == (num_codes, 1 + 2 * int(np.log2(num_codes)))
