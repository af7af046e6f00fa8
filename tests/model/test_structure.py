"""Key intervals of packed batches against the mask they stand for, written out pair by pair."""

import jax.numpy as jnp
import numpy as np
import pytest

from model.structure import structure_of

T = 24


def allowed(segment, span, window, t, s) -> bool:
    if segment[t] == 0 or segment[t] != segment[s]:
        return False
    same_span = span[t] > 0 and span[t] == span[s]
    return (
        same_span
        or (s <= t and (window is None or t - s < window))
        or (
            # A window joined with the query's own span is filled up in between.
            span[t] > 0 and s <= t and s >= np.flatnonzero(span == span[t])[0]
        )
    )


@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("seed", range(5))
def test_interval_holds_exactly_the_allowed_keys(window, seed):
    rng = np.random.default_rng(seed)
    segment = np.concatenate([np.sort(rng.integers(1, 5, T - 4)), np.zeros(4, int)])
    span, next_id = np.zeros(T, int), 1
    for s in np.unique(segment[segment > 0]):
        slots = np.flatnonzero(segment == s)
        if len(slots) > 3:
            span[slots[1:-1]], next_id = next_id, next_id + 1
    lo, hi = structure_of(*(jnp.array(x)[None] for x in (segment, np.zeros(T, int), span))).interval(window)
    for t in range(T):
        keys = [s for s in range(T) if allowed(segment, span, window, t, s)]
        assert list(range(int(lo[0, t]), int(hi[0, t]))) == keys


def test_keep_is_zero_where_a_segment_begins_and_in_padding():
    structure = structure_of(jnp.array([[1, 1, 2, 2, 2, 3, 0, 0]]), jnp.zeros((1, 8), int), jnp.zeros((1, 8), int))
    np.testing.assert_array_equal(structure.keep_BT[0], [0, 1, 0, 1, 1, 0, 0, 0])


def test_adjacent_spans_of_one_segment_stay_apart():
    structure = structure_of(jnp.array([[1, 1, 1, 1]]), jnp.zeros((1, 4), int), jnp.array([[7, 7, 8, 8]]))
    np.testing.assert_array_equal(structure.span_end_BT[0], [2, 2, 4, 4])
    np.testing.assert_array_equal(structure.span_start_BT[0], [0, 0, 2, 2])
