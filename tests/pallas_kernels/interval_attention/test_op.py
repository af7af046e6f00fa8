import functools
import itertools

import hypothesis
import hypothesis.extra.numpy as st_np
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.interval_attention import apply_sink, interval_attention, merge

B, T, H, K, h = 2, 24, 4, 2, 8
SCALE = h**-0.5
EMPTY = -1e30


# ---- masks from their definitions, then the intervals that the op takes


def causal(t, s):
    return s <= t


def window(width):
    return lambda t, s: (s <= t) & (s > t - width)


def packed_windows_with_spans(t, s):
    """Segments of 5, 9 and 6 slots, then padding; a window of 4; slots 7..11 are one bidirectional span."""
    segment = np.repeat([1, 2, 3, 0], [5, 9, 6, 4])
    span = np.zeros(T, int)
    span[7:12] = 1
    same_span = (span[t] == span[s]) & (span[t] > 0)
    return (segment[t] == segment[s]) & (segment[t] > 0) & (window(4)(t, s) | same_span)


def prefix(length):
    return lambda t, s: (s <= t) | ((t < length) & (s < length))


MASKS = {
    "causal": causal,
    "window of 3": window(3),
    "prefix of 10": prefix(10),
    "everything": lambda t, s: (t == t) & (s == s),
    "packed segments with a window, a span and padding": packed_windows_with_spans,
}


def mask_of(rule):
    t, s = np.indices((T, T))
    return np.broadcast_to(rule(t, s), (B, T, T))


def intervals_of(mask_BTS):
    """First allowed key and one past the last; fails on a mask with a hole."""
    some = mask_BTS.any(-1)
    lo = np.where(some, mask_BTS.argmax(-1), 0)
    hi = np.where(some, mask_BTS.shape[-1] - mask_BTS[..., ::-1].argmax(-1), 0)
    key = np.arange(mask_BTS.shape[-1])
    np.testing.assert_array_equal((key >= lo[..., None]) & (key < hi[..., None]), mask_BTS)
    return jnp.asarray(lo, jnp.int32), jnp.asarray(hi, jnp.int32)


def mask_from(lo_BT, hi_BT, S):
    key = np.arange(S)
    return (key >= np.asarray(lo_BT)[..., None]) & (key < np.asarray(hi_BT)[..., None])


# ---- the dense oracle


def dense(q, k, v, mask_BTS, softcap=None, xp=jnp):
    """softmax(q k) v head by head with a boolean mask; the exponentials are summed without any rescaling."""
    outs, lses = [], []
    for head in range(q.shape[2]):
        shared = head // (q.shape[2] // k.shape[2])
        s = xp.einsum("bth,bsh->bts", q[:, :, head], k[:, :, shared]) * SCALE
        if softcap is not None:
            s = softcap * xp.tanh(s / softcap)
        p = xp.where(mask_BTS, xp.exp(s), 0)
        total = xp.maximum(p.sum(-1), 1e-30)
        outs.append(xp.einsum("bts,bsh->bth", p / total[..., None], v[:, :, shared]))
        lses.append(xp.where(mask_BTS.any(-1), xp.log(total), EMPTY))
    return xp.stack(outs, 2), xp.stack(lses, 2)


def inputs(T=T, S=T, H=H, K=K, seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(B, n, heads, h)), dtype) for n, heads in ((T, H), (S, K), (S, K))]


@functools.partial(jax.jit, static_argnames=("block", "softcap"))
def attend(q, k, v, lo, hi, block=8, softcap=None):
    return interval_attention(q, k, v, lo, hi, scale=SCALE, softcap=softcap, block=block)


def weighted(out, lse):
    """A loss that reads every output with its own weight; the lse of rows without keys counts for nothing."""
    pattern = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
    return jnp.sum(out.astype(jnp.float32) * pattern) + jnp.sum(jnp.where(lse > EMPTY / 2, lse, 0) * pattern[..., 0])


@functools.partial(jax.jit, static_argnames=("block", "softcap"))
def gradients(q, k, v, lo, hi, block=8, softcap=None):
    return jax.grad(lambda *qkv: weighted(*attend(*qkv, lo, hi, block, softcap)), (0, 1, 2))(q, k, v)


@functools.partial(jax.jit, static_argnames="softcap")
def dense_gradients(q, k, v, mask, softcap=None):
    return jax.grad(lambda *qkv: weighted(*dense(*qkv, mask, softcap)), (0, 1, 2))(q, k, v)


def assert_close(actual, expected, tolerance=1e-5):
    """Largest error relative to the largest number."""
    for a, e in zip(actual, expected, strict=True):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        assert np.abs(a - e).max(initial=0) <= tolerance * np.abs(e).max(initial=1e-6)


def assert_equals_dense(qkv, lo, hi, mask, **options):
    softcap = options.get("softcap")
    out, lse = attend(*qkv, lo, hi, **options)
    want_out, want_lse = dense(*(np.asarray(x, np.float64) for x in qkv), mask, softcap, xp=np)
    some = mask.any(-1)
    assert_close([out, np.asarray(lse)[some]], [want_out, want_lse[some]])
    assert (np.asarray(lse)[~some] == np.float32(EMPTY)).all()
    assert_close(gradients(*qkv, lo, hi, **options), dense_gradients(*qkv, mask, softcap))


# ---- equality with the oracle


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("name", MASKS)
def test_values_and_gradients_equal_dense_attention(name, softcap):
    mask = mask_of(MASKS[name])
    assert_equals_dense(inputs(), *intervals_of(mask), mask, softcap=softcap)


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(1, 1), (4, 1), (6, 3)])
def test_query_heads_share_key_heads_in_order(num_heads, num_kv_heads):
    mask = mask_of(causal)
    assert_equals_dense(inputs(H=num_heads, K=num_kv_heads), *intervals_of(mask), mask)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(3, 21), (21, 5), (1, 17), (19, 1)])
def test_queries_and_keys_may_differ_in_number_and_fill_no_whole_block(num_queries, num_keys):
    rng = np.random.default_rng(1)
    lo, hi = np.sort(rng.integers(0, num_keys + 1, size=(2, B, num_queries)), axis=0).astype(np.int32)
    assert_equals_dense(inputs(num_queries, num_keys), lo, hi, mask_from(lo, hi, num_keys))


bounds = st_np.arrays(np.int32, (2, B, T), elements=st.integers(-3, 20))


@hypothesis.given(bounds=bounds)
@hypothesis.settings(deadline=None, max_examples=40)
def test_any_interval_is_right_whether_empty_reversed_unsorted_or_past_the_ends(bounds):
    lo, hi = bounds
    assert_equals_dense(inputs(S=17), lo, hi, mask_from(lo, hi, 17), block=5)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_block_size_does_not_change_the_result(block):
    lo, hi = intervals_of(mask_of(packed_windows_with_spans))
    qkv = inputs()
    assert_close(attend(*qkv, lo, hi, block=block)[:1], attend(*qkv, lo, hi)[:1])
    assert_close(gradients(*qkv, lo, hi, block=block), gradients(*qkv, lo, hi))


def test_rows_without_keys_give_zero_and_no_gradient():
    lo = hi = jnp.full((B, T), 9, jnp.int32)
    out, lse = attend(*inputs(), lo, hi)
    assert not out.any()
    assert (lse == EMPTY).all()
    d_qkv = jax.grad(lambda *qkv: sum(x.sum() for x in attend(*qkv, lo, hi)), (0, 1, 2))(*inputs())
    assert all(not d.any() for d in d_qkv)  # NaN would count as any


def test_scores_in_the_thousands_do_not_overflow():
    q, k, v = inputs()
    lo, hi = intervals_of(mask_of(causal))
    out, lse = attend(q * 1e3, k * 1e3, v, lo, hi)
    assert np.isfinite(out).all()
    assert np.isfinite(lse).all()
    assert all(np.isfinite(d).all() for d in gradients(q * 1e3, k * 1e3, v, lo, hi))


def test_bfloat16_inputs_keep_a_float32_logsumexp_and_stay_within_two_percent():
    lo, hi = intervals_of(mask_of(causal))
    half = inputs(dtype="bfloat16")
    out, lse = attend(*half, lo, hi)
    assert (out.dtype, lse.dtype) == (jnp.bfloat16, jnp.float32)
    full = [x.astype(jnp.float32) for x in half]
    assert_close((out, lse), attend(*full, lo, hi), 2e-2)
    d_half = gradients(*half, lo, hi)
    assert all(d.dtype == jnp.bfloat16 for d in d_half)
    assert_close(d_half, gradients(*full, lo, hi), 2e-2)


def test_the_gradient_passes_through_rematerialisation_and_a_scan_over_layers():
    lo, hi = intervals_of(mask_of(causal))
    q, k, v = inputs()

    def loss(q, layers):
        def layer(x, _):
            return x + attend(x, k, v, lo, hi)[0], None

        return weighted(*attend(layers(layer, q), k, v, lo, hi))

    scanned = jax.grad(loss)(q, lambda layer, x: jax.lax.scan(jax.checkpoint(layer), x, None, length=2)[0])
    plain = jax.grad(loss)(q, lambda layer, x: layer(layer(x, None)[0], None)[0])
    assert_close([scanned], [plain])


# ---- cost


def test_key_blocks_that_no_row_needs_are_never_touched():
    q, k, v = inputs()
    t = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
    lo = jnp.maximum(t - 2, 8)  # blocks of 8: nobody reads block 0, and queries below 16 read block 1 alone
    hi = t + 1
    poisoned = [x.at[:, :8].set(jnp.nan) for x in (k, v)]
    assert_close(attend(q, *poisoned, lo, hi)[:1], attend(q, k, v, lo, hi)[:1])
    assert_close(gradients(q, *poisoned, lo, hi), gradients(q, k, v, lo, hi))
    late = [x.at[:, 16:].set(jnp.nan) for x in (k, v)]
    assert np.isfinite(attend(q, *late, lo, hi)[0][:, :16]).all()


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_memory_grows_with_the_length_and_not_with_its_square(direction):
    def temporary_bytes(T):
        q = jax.ShapeDtypeStruct((1, T, 2, 8), jnp.float32)
        row = jax.ShapeDtypeStruct((1, T), jnp.int32)
        f = {"forward": attend, "backward": gradients}[direction]
        return f.lower(q, q, q, row, row, block=64).compile().memory_analysis().temp_size_in_bytes

    small, large = temporary_bytes(1024), temporary_bytes(4096)
    assert large < 6 * small
    assert large < 2 * 4096 * 4096 * 4 / 8  # an eighth of the scores of both heads


# ---- merge and sink


def test_merging_disjoint_key_sets_equals_attending_to_all_of_them():
    mask = mask_of(packed_windows_with_spans)
    lo, hi = intervals_of(mask)
    cuts = (0, 3, 16, T)

    def parts(q, k, v):
        pieces = [
            attend(q, k[:, a:z], v[:, a:z], lo - a, hi - a)  # ends outside the piece are clipped
            for a, z in itertools.pairwise(cuts)
        ]
        return merge(*zip(*pieces, strict=True))

    qkv = inputs()
    out, lse = attend(*qkv, lo, hi)
    merged_out, merged_lse = parts(*qkv)
    some = mask.any(-1)
    assert_close([merged_out, merged_lse[some]], [out, lse[some]])
    assert (merged_lse[~some] <= EMPTY / 2).all()
    d_merged = jax.jit(jax.grad(lambda *x: weighted(*parts(*x)), (0, 1, 2)))(*qkv)
    assert_close(d_merged, dense_gradients(*qkv, mask))


def test_a_sink_is_one_more_key_with_value_zero():
    mask = mask_of(packed_windows_with_spans)
    lo, hi = intervals_of(mask)
    sink = jnp.asarray([-1.0, 0.0, 0.5, 3.0])

    def op(sink, q, k, v):
        return jnp.sum(jnp.sin(apply_sink(*attend(q, k, v, lo, hi), sink)))

    def by_hand(sink, q, k, v):
        out, lse = dense(q, k, v, mask)
        total = jnp.where(lse > EMPTY / 2, jnp.exp(lse), 0)
        return jnp.sum(jnp.sin(out * (total / (total + jnp.exp(sink)))[..., None]))

    arguments = (sink, *inputs())
    wrt = (0, 1, 2, 3)
    assert_close(jax.jit(jax.grad(op, wrt))(*arguments), jax.jit(jax.grad(by_hand, wrt))(*arguments))
    assert op(*arguments) == pytest.approx(float(by_hand(*arguments)), rel=1e-5)


# ---- refusals


def test_shapes_that_do_not_fit_are_refused_by_name():
    q, k, v = inputs()
    lo, hi = intervals_of(mask_of(causal))
    with pytest.raises(ValueError, match=r"q, k, v: got .* allowed are"):
        interval_attention(q, k[..., :4], v[..., :4], lo, hi, scale=SCALE)
    with pytest.raises(ValueError, match="k: got 3 key/value heads for 4 query heads"):
        interval_attention(q, *(jnp.zeros((B, T, 3, h)),) * 2, lo, hi, scale=SCALE)
    with pytest.raises(ValueError, match=r"hi: got int32\[2, 23\]; allowed is int32\[2, 24\]"):
        interval_attention(q, k, v, lo, hi[:, 1:], scale=SCALE)
    with pytest.raises(ValueError, match="lo: got float32"):
        interval_attention(q, k, v, lo * 1.0, hi, scale=SCALE)
    with pytest.raises(ValueError, match=r"scale: got -0\.5; allowed is above 0"):
        interval_attention(q, k, v, lo, hi, scale=-0.5)
    with pytest.raises(ValueError, match="block: got 0"):
        interval_attention(q, k, v, lo, hi, scale=SCALE, block=0)
