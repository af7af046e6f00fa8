"""Which tiles of scores a kernel must visit, and in which of them every score is allowed."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TileRanges:
    """For each tile along one side, the tiles of the other side that it meets, all int32[B,n] and in units of tiles.

    Tiles outside [first, end) hold no allowed score. In [inner_first, inner_end), which lies inside [first, end), every
    score is allowed, those of rows without any key left aside: such rows need no mask but a last look.
    """

    first: jax.Array
    end: jax.Array
    inner_first: jax.Array
    inner_end: jax.Array


def key_tiles(lo_BT: jax.Array, hi_BT: jax.Array, *, q_tile: int, k_tile: int) -> TileRanges:
    """For each tile of queries, the tiles of keys it meets. T is a multiple of q_tile, 0 <= lo and hi <= S."""
    lo_Bnt, hi_Bnt = (x.reshape(x.shape[0], -1, q_tile) for x in (lo_BT, hi_BT))
    some_Bnt = lo_Bnt < hi_Bnt
    far = jnp.iinfo(jnp.int32).max // 2
    smallest_lo, largest_lo = jnp.where(some_Bnt, lo_Bnt, far).min(-1), jnp.where(some_Bnt, lo_Bnt, 0).max(-1)
    smallest_hi, largest_hi = jnp.where(some_Bnt, hi_Bnt, far).min(-1), jnp.where(some_Bnt, hi_Bnt, 0).max(-1)
    some_Bn = some_Bnt.any(-1)
    first = jnp.where(some_Bn, smallest_lo // k_tile, 0)
    end = jnp.where(some_Bn, -(-largest_hi // k_tile), 0)
    return _ranges(first, end, -(-largest_lo // k_tile), smallest_hi // k_tile)


def query_tiles(lo_BT: jax.Array, hi_BT: jax.Array, *, q_tile: int, k_tile: int, num_keys: int) -> TileRanges:
    """For each tile of keys, the tiles of queries it meets. T and num_keys are multiples of their tiles."""
    keys = key_tiles(lo_BT, hi_BT, q_tile=q_tile, k_tile=k_tile)
    tile_k = jnp.arange(num_keys // k_tile, dtype=jnp.int32)
    tile_q = jnp.arange(keys.first.shape[1], dtype=jnp.int32)

    def span(first_Bq, end_Bq):
        """First query tile that meets each key tile, and one past the last; XLA fuses comparison and minimum."""
        meets_Bkq = (first_Bq[:, None] <= tile_k[:, None]) & (tile_k[:, None] < end_Bq[:, None])
        first_Bk = jnp.where(meets_Bkq, tile_q, tile_q.size).min(-1)
        end_Bk = jnp.where(meets_Bkq, tile_q + 1, 0).max(-1)
        return jnp.minimum(first_Bk, end_Bk), end_Bk, meets_Bkq

    first, end, _ = span(keys.first, keys.end)
    inner_first, inner_end, inner_Bkq = span(keys.inner_first, keys.inner_end)
    # Where lo or hi go down again, the inner tiles of a column need not be neighbours: then all are masked.
    whole = inner_Bkq.sum(-1) == inner_end - inner_first
    return _ranges(first, end, jnp.where(whole, inner_first, 0), jnp.where(whole, inner_end, 0))


def _ranges(first, end, inner_first, inner_end) -> TileRanges:
    inner_first = jnp.clip(inner_first, first, end)
    ranges = (first, end, inner_first, jnp.clip(inner_end, inner_first, end))
    return TileRanges(*(x.astype(jnp.int32) for x in ranges))
