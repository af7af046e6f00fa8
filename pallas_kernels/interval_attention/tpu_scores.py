"""One tile of scores on a TPU core.

Scores stand transposed, keys in sublanes and rows in lanes: what belongs to a row (interval, maximum, logsumexp) is
then broadcast over sublanes, which is free, and its sums run over sublanes, which is cheap.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

__all__ = ["Scores", "allowed", "dot", "row_slices"]

# The compiler runs one part's product beside another's exponential; parts of 256 leave more of the units idle.
_SLICE = 512


@dataclasses.dataclass(frozen=True)
class Scores:
    """A score is `factor` times what `raw` returns: the factor meets only the difference that is exponentiated."""

    scale: float
    softcap: float | None

    def __post_init__(self):
        if self.scale <= 0:
            raise ValueError(f"scale: got {self.scale}; allowed is a positive number. Negate q instead.")

    @property
    def factor(self) -> float:
        return self.scale if self.softcap is None else self.softcap

    def raw(self, k_kh, q_rh):
        s_kr = dot(k_kh, q_rh, (1, 1))
        return s_kr if self.softcap is None else jnp.tanh(s_kr * (self.scale / self.softcap))

    def exp(self, difference):
        """exp(factor * difference), to base 2 as the device computes it."""
        return jnp.exp2(difference * (self.factor * math.log2(math.e)))


def dot(x, y, contracted: tuple[int, int]):
    """Product of two matrices over one dim of each, in float32; float32 factors are not rounded."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else lax.Precision.DEFAULT
    dims = (((contracted[0],), (contracted[1],)), ((), ()))
    return lax.dot_general(x, y, dims, precision=precision, preferred_element_type=jnp.float32)


def allowed(lo_1r, hi_1r, tile, k_tile: int):
    """Whether a row may see a key of a tile, bool[k,r]."""
    key_kr = lax.broadcasted_iota(jnp.int32, (k_tile, lo_1r.shape[1]), 0)
    start = tile * k_tile
    return (lo_1r - start <= key_kr) & (key_kr < hi_1r - start)


def row_slices(rows: int) -> list[pl.Slice]:
    """Parts of a tile of rows, independent of each other."""
    size = max(size for size in range(128, _SLICE + 1, 128) if rows % size == 0)
    return [pl.ds(start, size) for start in range(0, rows, size)]
