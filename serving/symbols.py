"""What a decoder may draw, and how much of a row's limit each token takes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from data.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class Symbols:
    """size_V: int32 for every id that the model has, 0 where it is never drawn."""

    size_V: np.ndarray

    @classmethod
    def text(cls, vocabulary: Vocabulary) -> Symbols:
        """Text tokens, each of which counts once."""
        return cls((np.arange(vocabulary.size) < vocabulary.text_size).astype(np.int32))

    @classmethod
    def codes(cls, vocabulary: Vocabulary, first: int, sizes: np.ndarray) -> Symbols:
        """The codes from `first` on, with these sizes."""
        size_V = np.zeros(vocabulary.size, np.int32)
        start = vocabulary.code_id(first)
        size_V[start : start + len(sizes)] = sizes
        return cls(size_V)

    def allowed(self, left_B: jax.Array, fits_B: jax.Array) -> jax.Array:
        """bool[B,V], or [1,V] alike for all rows: what may be drawn, in rows of `fits_B` no more than is left."""
        some_1V = jnp.asarray(self.size_V > 0)[None]
        if self.size_V.max() == 1:  # whatever is drawn fits
            return some_1V
        return some_1V & (~fits_B[:, None] | (jnp.asarray(self.size_V) <= left_B[:, None]))

    def size_of(self, id_B: jax.Array) -> jax.Array:
        return jnp.asarray(self.size_V)[id_B]
