"""Prefill in pieces, then decoding under one compiled loop: token ids in, token ids and log-probabilities out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.batch import PADDING_SEGMENT, Batch
from data.elements import Document
from data.layout import cost_of
from model.cache import Cache
from serving.completion import Top
from serving.image_pieces import image_pieces
from serving.model import LoadedModel
from serving.prompts import as_rows, part_of, round_up
from serving.sampling import Draws, draw
from serving.symbols import Symbols

# Lengths are rounded up to multiples, so that few programs are compiled; the kernels want caches in whole tiles.
_PROMPT, _CACHE = 32, 128


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Where a batch of sequences stands.

    hidden_BD: the model's output at each row's last slot. position_B: int32, of its next slot. drawn_B: int32, tokens
    drawn so far (or what their sizes come to, see `Symbols`). limit_B: int32, how many it may draw. done_B: bool, rows
    that draw no more.
    """

    cache: Cache
    hidden_BD: jax.Array
    position_B: jax.Array
    drawn_B: jax.Array
    limit_B: jax.Array
    done_B: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Drawn:
    """What N steps drew, in order and without gaps.

    ids_BN: int32, -1 where nothing was drawn. logprobs_BN: the model's own, at temperature 1. top_ids_BNk and
    top_logprobs_BNk: the k most likely tokens in each place, best first.
    """

    ids_BN: jax.Array
    logprobs_BN: jax.Array
    top_ids_BNk: jax.Array
    top_logprobs_BNk: jax.Array

    @classmethod
    def nothing(cls, batch_size: int, steps: int, num_top: int) -> Drawn:
        shape = (batch_size, steps)
        ids, logprobs = (lambda *k: jnp.full((*shape, *k), -1, jnp.int32)), (lambda *k: jnp.zeros((*shape, *k)))
        return cls(ids(), logprobs(), ids(num_top), logprobs(num_top))

    def row(self, b: int) -> Iterator[tuple[int, float, Top]]:
        """What row b drew: id, log-probability and the most likely tokens; call on arrays of the host."""
        tops = zip(self.top_ids_BNk[b].tolist(), self.top_logprobs_BNk[b].tolist(), strict=True)
        for token, logprob, top in zip(self.ids_BN[b].tolist(), self.logprobs_BN[b].tolist(), tops, strict=True):
            if token < 0:
                return
            yield token, logprob, tuple(zip(*top, strict=True))


class Decoder:
    """Compiled prefill and decoding of one model."""

    def __init__(self, loaded: LoadedModel, *, piece: int = 256, symbols: Symbols | None = None):
        """piece: slots that are prefilled at once; more where an image needs them, as it is never cut. symbols: what
        may be drawn; None: text tokens alone, never codes."""
        if piece < 1:
            raise ValueError(f"piece is {piece}; allowed: 1 or more")
        self.loaded, self.piece = loaded.layer_by_layer(), piece
        self.vocabulary = loaded.vocabulary
        self.symbols = symbols or Symbols.text(loaded.vocabulary)

    def prefill(self, documents: Sequence[Document], num_tokens: int) -> Rows:
        """Reads the prompts into a cache with room for `num_tokens` more in every row."""
        longest = max(cost_of(document).slots for document in documents)
        T = round_up(longest, _PROMPT)
        if self.piece < T:
            T = round_up(T, self.piece)
        whole = as_rows(documents, self.vocabulary, T)
        if whole.media:
            parts = list(image_pieces(whole, self.piece, _PROMPT))
        else:
            parts = [part_of(whole, slice(start, start + self.piece)) for start in range(0, T, self.piece)]
        room = max(T + _PROMPT if whole.media else T, longest + num_tokens)  # the last part may end in padding
        cache = self.loaded.empty_cache(len(documents), round_up(room, _CACHE))
        hidden_BD = None
        for part in parts:
            last_BD, cache = self.read(part, cache)
            reads_B1 = (part.segment_ids != PADDING_SEGMENT).any(1)[:, None]
            hidden_BD = last_BD if hidden_BD is None else jnp.where(reads_B1, last_BD, hidden_BD)
        assert hidden_BD is not None
        return self.ready(cache, hidden_BD, whole, num_tokens)

    def read(self, part: Batch, cache: Cache) -> tuple[jax.Array, Cache]:
        """A piece of each row into the cache, which is used up; returns also the output at each last real slot."""
        return self._read(self.loaded.params, self.loaded.buffers, part, cache)

    def ready(self, cache: Cache, hidden_BD: jax.Array, prompts: Batch, num_tokens: int | np.ndarray) -> Rows:
        """The rows whose whole prompts were read into the cache; one number of tokens for all or for each."""
        position_B = jnp.asarray(np.max(np.where(prompts.segment_ids > 0, prompts.positions + 1, 0), axis=1))
        zero_B = jnp.zeros_like(position_B)
        limit_B = zero_B + jnp.asarray(num_tokens, jnp.int32)
        return Rows(cache, hidden_BD, position_B, zero_B, limit_B, zero_B >= limit_B)

    def decode(
        self, rows: Rows, draws: Draws, steps: int, num_top: int = 0, fits_B: np.ndarray | None = None
    ) -> tuple[Rows, Drawn]:
        """Up to `steps` tokens for each row that is not done, which it is after end-of-text or at its limit.

        fits_B: rows that draw nothing that takes them over their limit. Uses up the given rows.
        """
        fits_B = np.zeros(rows.done_B.size, bool) if fits_B is None else fits_B
        return self._decode(self.loaded.params, self.loaded.buffers, rows, draws, steps, num_top, fits_B)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=4)
    def _read(self, params: Any, buffers: Any, part: Batch, cache: Cache):
        hidden_BTD, cache = self.loaded.module(params, buffers).extend(part, cache)
        last_B = jnp.maximum((part.segment_ids != PADDING_SEGMENT).sum(1) - 1, 0)
        return jnp.take_along_axis(hidden_BTD, last_B[:, None, None], axis=1)[:, 0], cache

    @functools.partial(jax.jit, static_argnums=(0, 5, 6), donate_argnums=3)
    def _decode(self, params: Any, buffers: Any, rows: Rows, draws: Draws, steps: int, num_top: int, fits_B: jax.Array):
        model = self.loaded.module(params, buffers)

        def step(carry):
            i, rows, drawn = carry
            logits_BV = model.token_logits(rows.hidden_BD)
            allowed_BV = self.symbols.allowed(rows.limit_B - rows.drawn_B, fits_B)
            logprobs_BV = jax.nn.log_softmax(jnp.where(allowed_BV, logits_BV, -jnp.inf))
            id_B = draw(logprobs_BV, rows.drawn_B, draws)
            logprob_B = jnp.take_along_axis(logprobs_BV, id_B[:, None], axis=1)[:, 0]
            top_logprobs_Bk, top_ids_Bk = jax.lax.top_k(logprobs_BV, num_top)
            new = Drawn(jnp.where(rows.done_B, -1, id_B), logprob_B, top_ids_Bk, top_logprobs_Bk)
            drawn = jax.tree.map(lambda all_, one: all_.at[:, i].set(one), drawn, new)
            return i + 1, self._next(model, rows, id_B), drawn

        start = (jnp.int32(0), rows, Drawn.nothing(rows.done_B.size, steps, num_top))
        carry = jax.lax.while_loop(lambda carry: (carry[0] < steps) & ~carry[1].done_B.all(), step, start)
        return carry[1:]

    def _next(self, model: Any, rows: Rows, id_B: jax.Array) -> Rows:
        """The rows after the drawn tokens; those that are done bring padding."""
        drawn_B = rows.drawn_B + jnp.where(rows.done_B, 0, self.symbols.size_of(id_B))
        done_B = rows.done_B | (id_B == self.vocabulary.eos_id) | (drawn_B >= rows.limit_B)
        segment_B = jnp.where(done_B, PADDING_SEGMENT, rows.cache.past.segment_B)
        zero_B1 = jnp.zeros_like(id_B)[:, None]
        fields = (id_B[:, None], segment_B[:, None], rows.position_B[:, None], zero_B1, zero_B1, zero_B1)
        hidden_B1D, cache = model.extend(Batch(*fields, media={}, values={}), rows.cache)
        hidden_BD = jnp.where(done_B[:, None], rows.hidden_BD, hidden_B1D[:, 0])
        return Rows(cache, hidden_BD, rows.position_B + ~done_B, drawn_B, rows.limit_B, done_B)
