import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.decode_attention import decode_attention
from pallas_kernels.decode_attention.reference import wanted_tiles
from pallas_kernels.interval_attention import interval_attention
from tests.pallas_kernels import intervals

NEVER = np.iinfo(np.int32).max


def ring_positions(lengths, S: int) -> jax.Array:
    """What each slot holds after that many positions went round a ring of S slots; -1 where none did."""
    slot, last = np.arange(S), np.asarray(lengths)[:, None] - 1
    held = last - (last - slot) % S
    return jnp.asarray(np.where(held >= 0, held, -1), jnp.int32)


def newest(lengths, T: int, window: int = NEVER) -> tuple[jax.Array, jax.Array]:
    """lo_BT and hi_BT of queries at the last T positions, each of which sees itself and window - 1 positions before."""
    hi = np.asarray(lengths)[:, None] - T + 1 + np.arange(T)
    return jnp.asarray(np.maximum(hi - window, 0), jnp.int32), jnp.asarray(hi, jnp.int32)


def step(
    lengths, S: int, T: int, H: int, K: int, h: int, dtype="float32", window: int = NEVER
) -> tuple[jax.Array, ...]:
    """All arguments of a decoding step over a ring of S slots of random content."""
    q, k, v, *_ = intervals.arrays(len(lengths), T, S, H, K, h, dtype)
    return q, k, v, ring_positions(lengths, S), *newest(lengths, T, window)


def loops(q, k, v, position, lo, hi, softcap):
    """One row and one key at a time, in float64."""
    (B, T, H, h), (S, K) = q.shape, k.shape[1:3]
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out, lse = np.zeros((B, T, H, h)), np.full((B, T, H), -1e30)
    for b, t, head in np.ndindex(B, T, H):
        shared = head // (H // K)
        seen = [s for s in range(S) if position[b, s] >= 0 and lo[b, t] <= position[b, s] < hi[b, t]]
        if seen:
            scores = np.array([q[b, t, head] @ k[b, s, shared] * h**-0.5 for s in seen])
            scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
            lse[b, t, head] = np.log(np.exp(scores).sum())
            out[b, t, head] = np.exp(scores - lse[b, t, head]) @ v[b, seen, shared]
    return out, lse


def assert_close(actual, expected, tolerance=1e-5):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(e, np.float64), rtol=tolerance, atol=tolerance)


# ---- the rule


@pytest.mark.parametrize(
    ("group", "T", "softcap"), [(1, 1, None), (1, 3, 0.7), (2, 1, 0.7), (2, 3, None), (4, 1, None), (8, 3, 0.7)]
)
def test_a_step_over_rings_of_unequal_lengths_follows_the_definition(group, T, softcap):
    arguments = step([5, 12, 31], 12, T, 2 * group, 2, 8, window=7)
    assert_close(decode_attention(*arguments, scale=8**-0.5, softcap=softcap), loops(*arguments, softcap))


@pytest.mark.parametrize("window", [8, NEVER])
def test_a_ring_gives_what_the_unrolled_sequence_gives(window):
    """40 positions in a ring of 10 that wrapped 4 times under a window of 8, and in a global cache of 48 slots."""
    length, T, S = 40, 3, 10 if window == 8 else 48
    q, k, v, *_ = intervals.arrays(1, T, length, 4, 2, 16, "float32")
    lo, hi = newest([length], T, window)
    unrolled = interval_attention(q, k, v, lo, hi, scale=0.25)
    k_ring, v_ring = jnp.zeros((1, S, 2, 16)), jnp.zeros((1, S, 2, 16))
    for position in range(length):
        k_ring, v_ring = (r.at[:, position % S].set(x[:, position]) for r, x in ((k_ring, k), (v_ring, v)))
    assert_close(decode_attention(q, k_ring, v_ring, ring_positions([length], S), lo, hi, scale=0.25), unrolled)


def test_the_order_of_the_slots_is_of_no_account():
    q, k, v, position, lo, hi = step([9, 20], 12, 2, 4, 2, 8)
    shuffled = np.random.default_rng(0).permutation(12)
    assert_close(
        decode_attention(q, k[:, shuffled], v[:, shuffled], position[:, shuffled], lo, hi, scale=0.3),
        decode_attention(q, k, v, position, lo, hi, scale=0.3),
    )


def test_left_padding_is_positions_that_no_query_sees():
    """Two prompts of 6 and 3 tokens end at the same slot; the shorter one alone gives the same."""
    q, k, v, *_ = intervals.arrays(2, 1, 6, 2, 1, 8, "float32")
    padded = jnp.array([[0, 1, 2, 3, 4, 5], [-1, -1, -1, 0, 1, 2]])
    out, lse = decode_attention(q, k, v, padded, jnp.zeros((2, 1), int), jnp.array([[6], [3]]), scale=0.3)
    alone = decode_attention(
        q[1:], k[1:, 3:], v[1:, 3:], jnp.arange(3)[None], jnp.zeros((1, 1), int), jnp.full((1, 1), 3), scale=0.3
    )
    assert_close((out[1:], lse[1:]), alone)


def test_a_row_without_keys_gives_zero_and_the_least_logsumexp():
    q, k, v, position, lo, hi = step([8, 8], 8, 2, 2, 1, 8)
    hi = hi.at[0, 0].set(0)  # an empty interval
    position = position.at[1].set(-1)  # an empty cache
    out, lse = decode_attention(q, k, v, position, lo, hi, scale=0.3)
    for b, t in ((0, 0), (1, 0), (1, 1)):
        assert not out[b, t].any()
        np.testing.assert_array_equal(lse[b, t], np.float32(-1e30))
    assert np.isfinite(lse[0, 1]).all()
    assert out[0, 1].any()


def test_an_interval_that_begins_below_zero_does_not_see_empty_slots():
    q, k, v, position, lo, hi = step([5], 8, 1, 2, 1, 8)
    assert_close(
        decode_attention(q, k, v, position, lo - 10, hi, scale=0.3),
        decode_attention(q, k, v, position, lo, hi, scale=0.3),
    )


def test_scores_are_float32_for_bfloat16_caches():
    arguments = step([30], 32, 2, 4, 2, 16, "bfloat16")
    out, lse = decode_attention(*arguments, scale=0.25)
    assert (out.dtype, lse.dtype) == (jnp.bfloat16, jnp.float32)
    assert_close((lse,), (loops(*arguments, None)[1],), 1e-4)


# ---- which tiles a kernel visits


def test_wanted_tiles_span_what_any_row_sees_and_nothing_else():
    position = ring_positions([10, 64, 100, 3], 64)
    lo, hi = newest([10, 64, 100, 3], 2, window=20)
    lo, hi = lo.at[3].set(0), hi.at[3].set(0)
    # 10 slots filled; positions 43..63; positions 79..99, slots 15..35; no keys
    np.testing.assert_array_equal(wanted_tiles(position, lo, hi, 8), [[0, 2], [5, 8], [1, 5], [0, 0]])


def test_wanted_tiles_of_a_window_that_wraps_are_all_between_its_ends():
    np.testing.assert_array_equal(wanted_tiles(ring_positions([68], 64), *newest([68], 1, window=12), 8), [[0, 8]])


# ---- mistakes


def test_a_gradient_is_refused_with_the_remedy():
    q, *rest = step([5], 8, 1, 2, 1, 8)
    with pytest.raises(ValueError, match=r"inference only.*Use interval_attention"):
        jax.grad(lambda q: decode_attention(q, *rest, scale=0.3)[0].sum())(q)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k_BSKh": jnp.zeros((1, 8, 2, 8))}, r"q, k, v: got .* allowed are \[B,T,H,h\], \[B,S,K,h\]"),
        ({"k_BSKh": jnp.zeros((1, 8, 3, 8)), "v_BSKh": jnp.zeros((1, 8, 3, 8))}, "k: got 3 key/value heads for 2"),
        ({"position_BS": jnp.zeros((8,), int)}, r"position: got int32\[8\]; allowed is int32\[1, 8\]"),
        ({"position_BS": jnp.zeros((1, 8))}, r"position: got float32\[1, 8\]; allowed is int32\[1, 8\]"),
        ({"lo_BT": jnp.zeros((1, 2), int)}, r"lo: got int32\[1, 2\]; allowed is int32\[1, 1\], one interval per query"),
        ({"hi_BT": jnp.zeros((1,), int)}, r"hi: got int32\[1\]; allowed is int32\[1, 1\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(change, message):
    names = ("q_BTHh", "k_BSKh", "v_BSKh", "position_BS", "lo_BT", "hi_BT")
    arguments = dict(zip(names, step([5], 8, 1, 2, 1, 8), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        decode_attention(**arguments, scale=0.3)
