"""Masks as key intervals, each from its definition, and arrays to attend with."""

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("causal", "window", "packed", "prefix", "span", "full", "mixed", "offset")


def interval(kind: str, T: int, S: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """lo_T and hi_T of one sequence of T queries; S keys, T unless given.

    `mixed` has segments of unequal length (one of a single slot), a window, a bidirectional span and padding at the
    end; `offset` has the queries stand at the end of the keys, as in chunked prefill.
    """
    S = T if S is None else S
    t = np.arange(T)
    segment_start = np.maximum.accumulate(np.where(np.isin(t, [0, T // 5, T // 5 + 1, T // 2]), t, 0))
    window_start = np.maximum(t - max(T // 4, 1) + 1, 0)
    if kind == "causal":
        return np.zeros(T, int), t + 1
    if kind == "window":
        return window_start, t + 1
    if kind == "packed":
        return segment_start, t + 1
    if kind == "prefix":
        return np.zeros(T, int), np.maximum(t + 1, T // 3)
    if kind == "full":
        return np.zeros(T, int), np.full(T, S)
    if kind == "offset":
        return np.zeros(T, int), t + 1 + S - T
    first, end = T // 2 + T // 8, T // 2 + T // 4
    in_span = (first <= t) & (t < end)
    if kind == "span":
        return np.zeros(T, int), np.where(in_span, end, t + 1)
    if kind == "mixed":
        lo = np.where(in_span, np.minimum(first, window_start), window_start)
        lo, hi = np.maximum(lo, segment_start), np.where(in_span, end, t + 1)
        padding = t >= T - T // 8
        return np.where(padding, 0, lo), np.where(padding, 0, hi)
    raise ValueError(kind)


def batch(kind: str, B: int, T: int, S: int | None = None) -> tuple[jax.Array, jax.Array]:
    """lo_BT and hi_BT; where a batch has several rows, the first is of this kind and the others are causal."""
    rows = [interval(kind if b == 0 else "causal", T, S) for b in range(B)]
    lo, hi = (np.stack(x) for x in zip(*rows, strict=True))
    return jnp.asarray(lo, jnp.int32), jnp.asarray(hi, jnp.int32)


def arrays(B: int, T: int, S: int, H: int, K: int, h: int, dtype: str, seed: int = 0) -> list[jax.Array]:
    """q_BTHh, k_BSKh, v_BSKh and d_out_BTHh of unit normal entries, and d_lse_BTH in float32."""
    rng = np.random.default_rng(seed)
    shapes = ((B, T, H, h), (B, S, K, h), (B, S, K, h), (B, T, H, h))
    q, k, v, d_out = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    return [q, k, v, d_out, jnp.asarray(rng.normal(size=(B, T, H)), "float32")]


def relative_error(actual: jax.Array, expected: jax.Array) -> float:
    """Norm of the difference over the norm of what is expected."""
    a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(a - e) / max(np.linalg.norm(e), 1e-30))
