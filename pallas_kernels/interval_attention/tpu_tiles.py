"""How the TPU kernels see their arrays: heads before time, a batch as one packed sequence, groups of heads stacked.

A kernel runs over one key/value head after the other and knows neither batch nor groups. The B sequences stand one
after another in time, each with its intervals moved to its own keys. The G = H / K query heads that read one key/value
head are stacked in a tile: r = G * q_tile rows meet k keys at once, so that keys are loaded once for a group, and their
gradients are summed over it by a matrix product.

All arrays are then [K,n,r,w] or [K,n,k,w]: head, tile, position in the tile, width.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from pallas_kernels.interval_attention.tiles import key_tiles, query_tiles
from pallas_kernels.interval_attention.tpu_visits import MAX_TILES, MAX_VISITS, Visits, list_visits

__all__ = ["Fold", "problem"]

LANES = 128
# A step of the grid costs about 0.35 us besides its work: 2048 x 1024 scores take 3 to 10 us. Such tiles hold twice the
# scores that a window of 1024 allows, as 512 x 1024 would; 512 x 512 would hold 1.5 times, in three times the steps.
MAX_ROWS = 2048
MAX_QUERIES = 1024
MAX_KEYS = 1024


def problem(q_BTHh, k_BSKh) -> str | None:
    """Why the list of visits does not fit into scalar memory, or None."""
    fold = Fold.of(q_BTHh, k_BSKh)
    if max(fold.num_row_tiles, fold.num_key_tiles) <= MAX_TILES and fold.max_visits <= MAX_VISITS:
        return None
    return (
        f"{fold.num_row_tiles} x {fold.num_key_tiles} tiles of queries and keys need more scalar memory than a core "
        "has; split the batch or the sequence over more devices"
    )


@dataclasses.dataclass(frozen=True)
class Fold:
    """The shapes of one call, and the way from the op's arrays to those of the kernels and back."""

    B: int
    T: int
    S: int
    H: int
    K: int
    h: int

    @classmethod
    def of(cls, q_BTHh, k_BSKh) -> Fold:
        B, T, H, h = q_BTHh.shape
        return cls(B, T, k_BSKh.shape[1], H, k_BSKh.shape[2], h)

    @functools.cached_property
    def q_tile(self) -> int:
        return _tile(self.T, min(MAX_QUERIES, MAX_ROWS * self.K // self.H))

    @functools.cached_property
    def k_tile(self) -> int:
        return _tile(self.S, MAX_KEYS)

    @property
    def rows(self) -> int:
        return self.H // self.K * self.q_tile

    @property
    def num_row_tiles(self) -> int:
        return self.B * -(-self.T // self.q_tile)

    @property
    def num_key_tiles(self) -> int:
        return self.B * -(-self.S // self.k_tile)

    @property
    def max_visits(self) -> int:
        return self.num_row_tiles * self.num_key_tiles // self.B

    def rows_in(self, x_BTHw):
        """[B,T,H,w] -> [K,n,r,w]; rows added to fill the last tile of a sequence are 0."""
        x_BTHw = _pad_time(x_BTHw, self.q_tile)
        x_BntKGw = x_BTHw.reshape(self.B, -1, self.q_tile, self.K, self.H // self.K, x_BTHw.shape[-1])
        return x_BntKGw.transpose(3, 0, 1, 4, 2, 5).reshape(self.K, self.num_row_tiles, self.rows, -1)

    def rows_out(self, x_Knrw):
        x_KBnGtw = x_Knrw.reshape(self.K, self.B, -1, self.H // self.K, self.q_tile, x_Knrw.shape[-1])
        x_BntKGw = x_KBnGtw.transpose(1, 2, 4, 0, 3, 5)
        return x_BntKGw.reshape(self.B, -1, self.H, x_Knrw.shape[-1])[:, : self.T]

    def constants_in(self, x_BTH):
        """One number per row, along the lanes: [B,T,H] -> [K,n,1,r]."""
        return jnp.swapaxes(self.rows_in(x_BTH[..., None]), 2, 3)

    def constants_out(self, x_Kn1r):
        return self.rows_out(jnp.swapaxes(x_Kn1r, 2, 3))[..., 0]

    def keys_in(self, x_BSKh):
        """[B,S,K,h] -> [K,n,k,h]; keys added to fill the last tile of a sequence are 0 and in no interval."""
        x_KBSh = _pad_time(x_BSKh, self.k_tile).transpose(2, 0, 1, 3)
        return x_KBSh.reshape(self.K, self.num_key_tiles, self.k_tile, self.h)

    def keys_out(self, x_Knkh):
        return x_Knkh.reshape(self.K, self.B, -1, self.h).transpose(1, 2, 0, 3)[:, : self.S]

    def intervals_in(self, lo_BT, hi_BT) -> tuple[jax.Array, jax.Array]:
        """Intervals in keys of the whole batch, int32[1,B*T] with T filled up to whole tiles."""
        start_B1 = jnp.arange(self.B, dtype=jnp.int32)[:, None] * (self.num_key_tiles // self.B * self.k_tile)
        bounds = (_pad_time(jnp.clip(bound, 0, self.S).astype(jnp.int32), self.q_tile) for bound in (lo_BT, hi_BT))
        lo_BT, hi_BT = (bound + start_B1 for bound in bounds)
        return lo_BT.reshape(1, -1), hi_BT.reshape(1, -1)

    def bounds_in(self, bound_1T):
        """One end of the intervals, the same for all heads: [1,B*T] -> [1,n,1,r]."""
        bound_1n1t = bound_1T.reshape(1, self.num_row_tiles, 1, self.q_tile)
        return jnp.tile(bound_1n1t, (1, 1, 1, self.H // self.K))

    def visits_by_rows(self, lo_1T, hi_1T) -> Visits:
        """For each row tile its key tiles, in ascending order."""
        return list_visits(key_tiles(lo_1T, hi_1T, q_tile=self.q_tile, k_tile=self.k_tile), self.max_visits)

    def visits_by_keys(self, lo_1T, hi_1T) -> Visits:
        """For each key tile its row tiles, in ascending order."""
        tiles = {"q_tile": self.q_tile, "k_tile": self.k_tile, "num_keys": self.num_key_tiles * self.k_tile}
        return list_visits(query_tiles(lo_1T, hi_1T, **tiles), self.max_visits)


def _tile(length: int, limit: int) -> int:
    """A multiple of 128, `limit` or less (but 128), that leaves little of the last tile empty."""
    limit = max(limit // LANES, 1) * LANES
    num_tiles = -(-length // limit)
    return -(-length // (num_tiles * LANES)) * LANES


def _pad_time(x_BT, tile: int):
    padding = -x_BT.shape[1] % tile
    return jnp.pad(x_BT, ((0, 0), (0, padding), *((0, 0) for _ in x_BT.shape[2:])))
