"""Sizes of groups that a kernel can get wrong, arrays to multiply, and a check against the reference in float32."""

import functools
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import backend
from pallas_kernels.grouped_matmul import reference

M = 280  # several tiles of 128 rows; a multiple of 8, but not of a tile
SIZES = {
    "whole tiles": (128, 0, 128, 24, 0, 0),
    "empty groups first, in the middle and last": (0, 61, 0, 0, 219, 0),
    "one huge group": (0, 0, 280, 0, 0, 0),
    "single rows": (1, 1, 1, 275, 1, 1),
    "several groups in a tile": (9, 30, 5, 60, 17, 159),
    "rows of no group": (20, 0, 110, 5, 0, 0),
    "rows of no group begin at a tile": (100, 0, 0, 20, 0, 8),
    "no rows at all": (0, 0, 0, 0, 0, 0),
}

# Of results that are rounded once: a unit in the last place is up to 2^-8, 2^-11 and 2^-24 of a value.
TOLERANCE = {"bfloat16": 2e-3, "float16": 2.5e-4, "float32": 1e-5}


def arrays(num_rows: int, D: int, F: int, E: int, dtype: str) -> list[jax.Array]:
    """x_MD, w_EDF and d_y_MF of unit normal entries."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in ((num_rows, D), (E, D, F), (num_rows, F))]


@functools.cache
def _compiled(kernel: ModuleType):
    """One program for each set of shapes: compiling the simulator takes longer than running it."""

    def both(x, w, sizes, d_y):
        return kernel.forward(x, w, sizes), *kernel.backward(x, w, sizes, d_y)

    return jax.jit(both)


def simulate(kernel: ModuleType, x, w, sizes, d_y) -> list[np.ndarray]:
    """y, d_x and d_w of a backend's module in the simulator, which reports accesses that are not ordered."""
    with backend.emulate(kernel.__name__.rpartition(".")[2], detect_races=True):
        return [np.asarray(z) for z in _compiled(kernel)(x, w, jnp.asarray(sizes, jnp.int32), d_y)]


def assert_equals_reference(kernel: ModuleType, sizes, *, dtype="bfloat16", rows: int = M, D: int = 128, F: int = 128):
    """y, d_x and d_w are those of the reference, and exactly 0 for rows of no group and for empty groups."""
    x, w, d_y = arrays(rows, D, F, len(sizes), dtype)
    y, d_x, d_w = simulate(kernel, x, w, sizes, d_y)
    sizes = jnp.asarray(sizes, jnp.int32)
    x, w, d_y = (z.astype(jnp.float32) for z in (x, w, d_y))
    expected = reference.forward(x, w, sizes), *reference.backward(x, w, sizes, d_y)
    for name, a, e in zip(("y", "d_x", "d_w"), (y, d_x, d_w), expected, strict=True):
        assert a.dtype == dtype, name
        error = np.linalg.norm(a.astype(np.float64) - np.asarray(e, np.float64))
        assert error <= TOLERANCE[dtype] * np.linalg.norm(e), name
    assert not y[int(sizes.sum()) :].any()
    assert not d_x[int(sizes.sum()) :].any()
    assert not d_w[np.asarray(sizes) == 0].any()


def assert_rows_of_no_group_are_not_read(kernel: ModuleType):
    sizes = SIZES["rows of no group"]
    x, w, d_y = arrays(M, 128, 128, len(sizes), "bfloat16")
    for z in simulate(kernel, x.at[sum(sizes) :].set(jnp.nan), w, sizes, d_y):
        assert np.isfinite(z).all()


def assert_repeats_bit_for_bit(kernel: ModuleType):
    sizes = SIZES["several groups in a tile"]
    x, w, d_y = arrays(M, 128, 128, len(sizes), "bfloat16")
    for a, b in zip(simulate(kernel, x, w, sizes, d_y), simulate(kernel, x, w, sizes, d_y), strict=True):
        np.testing.assert_array_equal(a, b)
