"""What the kernels of every platform do alike, in their simulators."""

import hypothesis
import hypothesis.extra.numpy as st_np
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from pallas_kernels import backend
from pallas_kernels.diagonal_scan import gpu, reference, tpu
from pallas_kernels.diagonal_scan.gpu_tiles import STEPS, TILE
from tests.pallas_kernels.diagonal_scan import cases

KERNELS = {"gpu": gpu, "tpu": tpu}
# gpu: three tiles, so that output slots are used again; channels are no multiple of lanes.
# tpu: three blocks of 64 steps and two tiles of 128 channels, the last of either mostly padding.
SHAPES = {"gpu": (4, 2 * TILE + 2, 20), "tpu": (1, 130, 130)}
on_each_platform = pytest.mark.parametrize("platform", KERNELS)


def gpu_resets():
    """At random, at the edges of tiles and streams, at every step, and nowhere: one row each."""
    B, T, _ = SHAPES["gpu"]
    keep = np.ones((B, T))
    keep[0] = np.random.default_rng(1).random(T) > 0.1
    keep[1, [0, 1, STEPS - 1, STEPS, 3 * STEPS, TILE - 1, TILE, TILE + 1, 2 * TILE, T - 1]] = 0
    keep[2] = 0
    return keep


def tpu_resets():
    """At random, and at the edges of blocks and of the 8 rows of a tile."""
    _, T, _ = SHAPES["tpu"]
    keep = np.random.default_rng(1).random(T) > 0.1
    keep[[0, 1, 7, 8, 63, 64, 65, 127, 128, T - 1]] = 0
    keep[80:120] = 1
    return keep[None]


@pytest.fixture(scope="module", params=[(platform, kind) for platform in KERNELS for kind in cases.KINDS], ids=str)
def problem(request):
    """The inputs, two runs of the kernels on them, and the races seen."""
    platform, kind = request.param
    given = cases.inputs(kind, *SHAPES[platform], {"gpu": gpu_resets, "tpu": tpu_resets}[platform]())
    return given, *cases.emulate_twice(KERNELS[platform], platform, given)


def test_values_and_gradients_equal_the_definition(problem):
    given, (h, gradients), *_ = problem
    cases.assert_close((h, *gradients), cases.definition(*given))


def test_values_and_gradients_equal_the_reference(problem):
    given, run, *_ = problem
    cases.assert_close(run, cases.run(reference, *given))


def test_runs_are_equal_bit_for_bit(problem):
    _, first, second, _ = problem
    cases.assert_same(first, second)


def test_no_access_races_another(problem):
    *_, said = problem
    assert "RACE" not in said


in_one_block = {
    platform: jax.jit(lambda *given, kernels=kernels: cases.run(kernels, *given))
    for platform, kernels in KERNELS.items()
}


@on_each_platform
@pytest.mark.parametrize("kind", cases.KINDS)
@hypothesis.given(keep=st_np.arrays(np.float32, (1, 12), elements=st.sampled_from([0.0, 1.0])))
@hypothesis.settings(deadline=None, max_examples=4, derandomize=True)
def test_any_resets_are_obeyed(platform, kind, keep):
    given = cases.inputs(kind, 1, 12, 3, keep)
    with backend.emulate(platform):
        h, gradients = in_one_block[platform](*given)
    cases.assert_close((h, *gradients), cases.definition(*given))
