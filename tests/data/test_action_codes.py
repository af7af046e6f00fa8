"""Chunks as one code a dim: which steps, in what order, and Gato's companding by hand-computed values."""

import math

import numpy as np
import pytest

from data.action_codes import MU_LAW, StepCodes, UndecodableActions
from data.transforms import Bins

GATO = Bins(1024, -1.0, 1.0, MU_LAW)


def test_codes_stand_step_by_step_and_dim_by_dim():
    actions_CA = np.array([[-3, 3], [0, 0], [1.5, -1.5]], np.float32)
    codes = StepCodes((0, 2), Bins(4, -2, 2))
    ids, shares = codes.encode(actions_CA, np.array([True, True, False]))
    assert ids.tolist() == [0, 3, 3, 0]
    assert shares.tolist() == [1, 1, 0, 0]
    assert codes.decode(ids.tolist(), 2).tolist() == [[-1.5, 1.5], [1.5, -1.5]]
    assert codes.counts([], 2) == 4
    assert (codes.length(2), codes.first(64), codes.num_codes) == (4, 0, 4)


@pytest.mark.parametrize(("value", "companded"), [(0.0, 0.0), (1.0, math.log(101) / math.log(25601)), (-256.0, -1.0)])
def test_gatos_1024_bins_lie_where_the_paper_puts_them(value, companded):
    """F(1) = 0.45467; arXiv 2205.06175, Appendix B."""
    code = int(GATO.encode(np.array([value]))[0])
    assert code == min(1023, math.floor((companded + 1) * 512))
    centre = (2 * code + 1) / 1024 - 1
    expected = math.copysign(math.expm1(abs(centre) * math.log(25601)) / 100, centre)
    np.testing.assert_allclose(GATO.decode(np.array([code])), expected, rtol=1e-5)


def test_companded_bins_tell_small_actions_apart_and_large_ones_still():
    values = np.concatenate([np.linspace(-0.1, 0.1, 500), np.linspace(-5, 5, 500)])
    error = np.abs(GATO.decode(GATO.encode(values)) - values)
    # Half a bin is 1 / 1024 of the companded range, whose slope is mu / ((|x| mu + 1) ln(M mu + 1)).
    bound = (np.abs(values) * 100 + 1) * math.log(25601) / 100 / 1024
    assert (error <= 1.02 * bound).all()
    assert error[:500].max() < 0.002 < 0.04 < error[500:].max() < 0.06


@pytest.mark.parametrize(
    ("codes", "message"), [([1] * 3, "3 action codes for 2 steps of 2 dims"), ([1, 2, 3, 4], "0..3")]
)
def test_codes_that_are_no_chunk_raise_what_a_policy_keeps_its_plan_for(codes, message):
    with pytest.raises(UndecodableActions, match=message):
        StepCodes((0, 1), Bins(4)).decode(codes, 2)
