import hypothesis
import hypothesis.extra.numpy as st_np
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from pallas_kernels import backend
from pallas_kernels.diagonal_scan import reference, tpu
from tests.pallas_kernels.diagonal_scan import cases

T, N = 130, 130  # three blocks of 64 steps and two tiles of 128 channels, the last of either mostly padding


def resets():
    """At random, and at the edges of blocks and of the 8 rows of a tile."""
    keep = np.random.default_rng(1).random(T) > 0.1
    keep[[0, 1, 7, 8, 63, 64, 65, 127, 128, T - 1]] = 0
    keep[80:120] = 1
    return keep[None]


@pytest.fixture(scope="module", params=cases.KINDS)
def problem(request):
    """The inputs, two runs of the kernels on them, and the races seen."""
    given = cases.inputs(request.param, 1, T, N, resets())
    return given, *cases.emulate_twice(tpu, "tpu", given)


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


one_block = jax.jit(lambda *args: cases.run(tpu, *args))


@pytest.mark.parametrize("kind", cases.KINDS)
@hypothesis.given(keep=st_np.arrays(np.float32, (1, 12), elements=st.sampled_from([0.0, 1.0])))
@hypothesis.settings(deadline=None, max_examples=4, derandomize=True)
def test_any_resets_are_obeyed(kind, keep):
    given = cases.inputs(kind, 1, 12, 3, keep)
    with backend.emulate("tpu"):
        h, gradients = one_block(*given)
    cases.assert_close((h, *gradients), cases.definition(*given))


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("device_kind", ["TPU v5p", "TPU v6 lite", "TPU7x"])
def test_lowers_for_tpus_without_one(kind, device_kind):
    for shape in ((1, 131072, 4096), (2, 100, 640)):
        for text in cases.lower(tpu, "tpu", device_kind, kind, *shape):
            assert "tpu_custom_call" in text
