"""Tile ranges against the dense mask of their intervals."""

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from pallas_kernels.interval_attention import tiles
from tests.pallas_kernels import intervals

B, T, S, Q_TILE, K_TILE = 2, 24, 20, 4, 5

key_tiles = jax.jit(tiles.key_tiles, static_argnames=("q_tile", "k_tile"))
query_tiles = jax.jit(tiles.query_tiles, static_argnames=("q_tile", "k_tile", "num_keys"))


def bounds(strategy):
    return st.lists(strategy, min_size=B * T, max_size=B * T).map(lambda x: np.reshape(x, (B, T)).astype(np.int32))


ANY = bounds(st.integers(0, S))
ASCENDING = ANY.map(lambda x_BT: np.sort(x_BT, -1))


def tiled_mask(lo_BT, hi_BT):
    """The dense mask as [B, query tile, key tile, scores of a tile], and which rows have keys."""
    key = np.arange(S)
    mask_BTS = (lo_BT[..., None] <= key) & (key < hi_BT[..., None])
    shape = (B, T // Q_TILE, Q_TILE, S // K_TILE, K_TILE)
    has_keys = np.broadcast_to((lo_BT < hi_BT)[..., None], mask_BTS.shape)
    return [x.reshape(shape).transpose(0, 1, 3, 2, 4).reshape(*shape[:2], shape[3], -1) for x in (mask_BTS, has_keys)]


def members(first_Bn, end_Bn, num):
    """Ranges as a boolean array [B, n, num]."""
    other = np.arange(num)
    return (np.asarray(first_Bn)[..., None] <= other) & (other < np.asarray(end_Bn)[..., None])


def facts(lo_BT, hi_BT):
    """Of every tile of scores: whether any is allowed; whether all are, in the rows (one or more) that have keys."""
    mask, has_keys = tiled_mask(lo_BT, hi_BT)
    return mask.any(-1), has_keys.any(-1) & (mask | ~has_keys).all(-1)


def sets(ranges, num):
    return members(ranges.first, ranges.end, num), members(ranges.inner_first, ranges.inner_end, num)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(lo_BT=ANY, hi_BT=ANY)
def test_the_key_tiles_of_a_query_tile_run_from_the_first_to_the_last_with_an_allowed_score(lo_BT, hi_BT):
    some_Bqk, all_Bqk = facts(lo_BT, hi_BT)
    met_Bqk, inner_Bqk = sets(key_tiles(lo_BT, hi_BT, q_tile=Q_TILE, k_tile=K_TILE), S // K_TILE)
    between_Bqk = np.maximum.accumulate(some_Bqk, -1) & np.maximum.accumulate(some_Bqk[..., ::-1], -1)[..., ::-1]
    np.testing.assert_array_equal(met_Bqk, between_Bqk)
    np.testing.assert_array_equal(inner_Bqk, all_Bqk)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(lo_BT=ANY, hi_BT=ANY)
def test_the_query_tiles_of_a_key_tile_miss_no_allowed_score_and_call_none_inner_that_needs_a_mask(lo_BT, hi_BT):
    some_Bqk, all_Bqk = facts(lo_BT, hi_BT)
    met_Bkq, inner_Bkq = sets(query_tiles(lo_BT, hi_BT, q_tile=Q_TILE, k_tile=K_TILE, num_keys=S), T // Q_TILE)
    assert not (some_Bqk & ~met_Bkq.swapaxes(1, 2)).any()
    assert not (inner_Bkq & ~met_Bkq).any()
    assert not (inner_Bkq.swapaxes(1, 2) & ~all_Bqk).any()


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(lo_BT=ASCENDING, length_BT=bounds(st.integers(1, S)))
def test_where_intervals_only_move_forward_the_query_tiles_mirror_the_key_tiles(lo_BT, length_BT):
    lo_BT = np.minimum(lo_BT, S - 1)
    hi_BT = np.maximum.accumulate(np.minimum(lo_BT + length_BT, S), -1)
    met_Bqk, inner_Bqk = sets(key_tiles(lo_BT, hi_BT, q_tile=Q_TILE, k_tile=K_TILE), S // K_TILE)
    met_Bkq, inner_Bkq = sets(query_tiles(lo_BT, hi_BT, q_tile=Q_TILE, k_tile=K_TILE, num_keys=S), T // Q_TILE)
    np.testing.assert_array_equal(met_Bkq, met_Bqk.swapaxes(1, 2))
    np.testing.assert_array_equal(inner_Bkq, inner_Bqk.swapaxes(1, 2))


@pytest.mark.parametrize(("kind", "met", "inner"), [("causal", 10, 6), ("window", 7, 0), ("full", 16, 16)])
def test_a_mask_costs_the_tiles_that_it_touches(kind, met, inner):
    """Of 4 x 4 tiles of 8: causal the lower triangle; a window of 8 its diagonal and the one below."""
    lo_BT, hi_BT = intervals.batch(kind, 1, 32)
    for ranges in (
        key_tiles(lo_BT, hi_BT, q_tile=8, k_tile=8),
        query_tiles(lo_BT, hi_BT, q_tile=8, k_tile=8, num_keys=32),
    ):
        assert int((ranges.end - ranges.first).sum()) == met
        assert int((ranges.inner_end - ranges.inner_first).sum()) == inner
