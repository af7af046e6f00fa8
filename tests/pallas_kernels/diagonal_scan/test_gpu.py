import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import backend
from pallas_kernels.diagonal_scan import diagonal_scan, gpu
from pallas_kernels.diagonal_scan.gpu_tiles import TILE
from tests.pallas_kernels.diagonal_scan import cases


@pytest.mark.parametrize("kind", [cases.KINDS[0], pytest.param(cases.KINDS[1], marks=pytest.mark.slow)])
def test_chunks_of_time_chain_to_the_whole(kind):
    given = cases.inputs(kind, 1, 8 * TILE - 1, 32, np.arange(8 * TILE - 1)[None] % 150 != 149)
    assert gpu.num_chunks(1, 8 * TILE - 1, 32) == 2
    with backend.emulate("gpu"):
        h, gradients = jax.jit(lambda *args: cases.run(gpu, *args))(*given)
    cases.assert_close((h, *gradients), cases.definition(*given))


def test_the_op_differentiates_through_the_kernels():
    a, x, keep, h0, _ = cases.inputs(cases.KINDS[0], 1, 30, 3)

    def loss(name, a, x, h0):
        h_re, h_im, last = diagonal_scan(*a, *x, keep, h0, backend=name)
        return (h_re * jnp.cos(h_im)).sum() + (last[0] * last[1]).sum()

    want = jax.grad(loss, (1, 2, 3))("reference", a, x, h0)
    with backend.emulate("gpu"):
        cases.assert_close(jax.grad(loss, (1, 2, 3))("gpu", a, x, h0), want)


def test_time_is_cut_only_where_channels_and_rows_do_not_fill_the_device():
    assert gpu.num_chunks(1, 131072, 4096) == 1
    assert gpu.num_chunks(8, 8192, 2048) == 1
    assert gpu.num_chunks(1, 131072, 256) == 16
    assert gpu.num_chunks(1, 100, 256) == 1  # too short to be worth it


def test_more_rows_than_a_grid_has_are_refused():
    shape = jax.ShapeDtypeStruct((70000, 4, 8), jnp.float32)
    assert gpu.unsupported(None, (shape, shape)) == "70000 rows are more than 65535"


@pytest.mark.parametrize("kind", cases.KINDS)
def test_lowers_for_hopper_without_one(kind):
    for text in cases.lower(gpu, "cuda", "NVIDIA H200", kind, 1, 131072, 4096):
        assert text.count("custom_call @mosaic_gpu") == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", cases.KINDS)
def test_chunks_lower_for_hopper_as_two_kernels(kind):
    for text in cases.lower(gpu, "cuda", "NVIDIA H200", kind, 2, 8192, 256):
        assert text.count("custom_call @mosaic_gpu") == 2
