import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.grouped_matmul import grouped_matmul

M, D, F, E = 300, 6, 5, 4  # more than two tiles of rows
rng = np.random.default_rng(0)
X, W, D_Y = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((M, D), (E, D, F), (M, F)))

SIZES = {
    "even": [75, 75, 75, 75],
    "whole tiles": [128, 128, 0, 44],
    "empty groups at the ends": [0, 290, 10, 0],
    "one huge group": [0, 0, 300, 0],
    "single rows": [1, 1, 297, 1],
    "rows of no group": [20, 0, 110, 5],
    "no rows at all": [0, 0, 0, 0],
}


@jax.jit
def value_and_gradients(x, w, sizes, d_y):
    y, pull_back = jax.vjp(lambda x, w: grouped_matmul(x, w, sizes), x, w)
    return y, *pull_back(d_y)


def loop_over_groups(x, w, sizes, d_y):
    x, w, d_y = (np.asarray(z, np.float64) for z in (x, w, d_y))
    y, d_x, d_w = np.zeros((len(x), w.shape[2])), np.zeros_like(x), np.zeros_like(w)
    begin = 0
    for group, size in enumerate(sizes):
        rows = slice(begin, begin + size)
        y[rows] = x[rows] @ w[group]
        d_x[rows] = d_y[rows] @ w[group].T
        d_w[group] = x[rows].T @ d_y[rows]
        begin += size
    return y, d_x, d_w


def assert_equals_loop(sizes):
    actual = value_and_gradients(X, W, jnp.asarray(sizes, jnp.int32), D_Y)
    for a, e in zip(actual, loop_over_groups(X, W, sizes, D_Y), strict=True):
        assert np.abs(a - e).max() <= 1e-5 * max(np.abs(e).max(), 1e-6)


@pytest.mark.parametrize("name", SIZES)
def test_value_and_gradients_equal_a_loop_over_groups(name):
    assert_equals_loop(SIZES[name])


@hypothesis.given(cuts=st.lists(st.integers(0, M), min_size=E, max_size=E))
@hypothesis.settings(deadline=None, max_examples=50)
def test_value_and_gradients_equal_a_loop_for_any_sizes(cuts):
    assert_equals_loop(np.diff(sorted(cuts), prepend=0).tolist())


def test_fewer_rows_than_a_tile_and_a_single_row():
    for num_rows, sizes in ((9, [4, 0, 5, 0]), (1, [0, 0, 0, 1])):
        y = grouped_matmul(X[:num_rows], W, jnp.asarray(sizes, jnp.int32))
        want = loop_over_groups(X[:num_rows], W, sizes, D_Y[:num_rows])[0]
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


def test_rows_of_no_group_are_zero_and_are_not_read():
    sizes = jnp.asarray(SIZES["rows of no group"], jnp.int32)
    first_outside = int(sizes.sum())
    y, d_x, d_w = value_and_gradients(X.at[first_outside:].set(jnp.nan), W, sizes, D_Y)
    assert not y[first_outside:].any()
    assert not d_x[first_outside:].any()
    assert np.isfinite(d_w).all()


def test_agrees_with_ragged_dot():
    sizes = jnp.asarray(SIZES["even"], jnp.int32)
    want, pull_back = jax.vjp(lambda x, w: jax.lax.ragged_dot(x, w, sizes), X, W)
    for a, e in zip(value_and_gradients(X, W, sizes, D_Y), (want, *pull_back(D_Y)), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4)


def test_bfloat16_products_are_summed_in_float32_and_rounded_once():
    """Ones summed in bfloat16 stop at 256; each gradient sums over another dim."""
    x, w, d_y = (jnp.ones(shape, jnp.bfloat16) for shape in ((600, 400), (1, 400, 800), (600, 800)))
    y, d_x, d_w = value_and_gradients(x, w, jnp.asarray([600], jnp.int32), d_y)
    assert y.dtype == d_x.dtype == d_w.dtype == jnp.bfloat16
    assert (y == 400).all()
    assert (d_x == 800).all()
    assert (d_w == 600).all()


def test_memory_does_not_grow_with_the_number_of_groups():
    def temporary_bytes(num_groups):
        x, d_y = jax.ShapeDtypeStruct((4096, 8), jnp.float32), jax.ShapeDtypeStruct((4096, 8), jnp.float32)
        w = jax.ShapeDtypeStruct((num_groups, 8, 8), jnp.float32)
        sizes = jax.ShapeDtypeStruct((num_groups,), jnp.int32)
        return value_and_gradients.lower(x, w, sizes, d_y).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(64) < temporary_bytes(2) + 4 * 64 * 8 * 8 * 4


def test_shapes_and_dtypes_that_do_not_fit_are_refused_by_name():
    sizes = jnp.asarray(SIZES["even"], jnp.int32)
    with pytest.raises(ValueError, match=r"x, w: got float32\[300, 5\], float32\[4, 6, 5\]; allowed are"):
        grouped_matmul(X[:, 1:], W, sizes)
    with pytest.raises(ValueError, match=r"x, w: got bfloat16.*of one dtype"):
        grouped_matmul(X.astype(jnp.bfloat16), W, sizes)
    with pytest.raises(ValueError, match=r"group_sizes: got int32\[3\]; allowed is int32\[4\]"):
        grouped_matmul(X, W, sizes[1:])
