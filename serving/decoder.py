"""Prefill in pieces, then decoding under one compiled loop: token ids in, token ids and log-probabilities out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.batch import PADDING_SEGMENT, Batch
from data.elements import Document, Image
from data.layout import RowShape, collate, cost_of, lay_out
from model.cache import Cache
from serving.model import LoadedModel
from serving.sampling import Draws, draw

# Lengths are rounded up to multiples, so that few programs are compiled; the kernels want caches in whole tiles.
_PROMPT, _CACHE = 32, 128


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Where a batch of sequences stands.

    hidden_BD: the model's output at each row's last slot. position_B: int32, of its next slot. drawn_B: int32, tokens
    drawn so far. done_B: bool, rows that draw no more.
    """

    cache: Cache
    hidden_BD: jax.Array
    position_B: jax.Array
    drawn_B: jax.Array
    done_B: jax.Array


class Decoder:
    """Compiled prefill and decoding of one model; text tokens alone are drawn, never codes."""

    def __init__(self, loaded: LoadedModel, *, piece: int = 256):
        """piece: slots that are prefilled at once; prompts with images are prefilled whole."""
        if piece < 1:
            raise ValueError(f"piece is {piece}; allowed: 1 or more")
        self.loaded, self.piece = loaded.layer_by_layer(), piece
        self.vocabulary = loaded.vocabulary

    def prefill(self, documents: Sequence[Document], num_tokens: int) -> Rows:
        """Reads the prompts into a cache with room for `num_tokens` more in every row."""
        whole = self._lay_out(documents)
        B, T = whole.tokens.shape
        room = _round_up(max(T, int(np.max((whole.segment_ids > 0).sum(1))) + num_tokens), _CACHE)
        cache = self.loaded.empty_cache(B, room)
        hidden_BD = None
        width = T if whole.media else min(self.piece, T)
        for start in range(0, T, width):
            part = _slots(whole, slice(start, start + width))
            cache, hidden_BD = self._read(self.loaded.params, self.loaded.buffers, part, cache, hidden_BD)
        assert hidden_BD is not None
        position_B = jnp.asarray(np.max(np.where(whole.segment_ids > 0, whole.positions + 1, 0), axis=1))
        zero_B = jnp.zeros(B, jnp.int32)
        return Rows(cache, hidden_BD, position_B, zero_B, zero_B > 0)

    def decode(self, rows: Rows, draws: Draws, steps: int) -> tuple[Rows, jax.Array, jax.Array]:
        """Up to `steps` tokens for each row that is not done; a row is done after end-of-text.

        Returns the rows, ids_BN (-1 where nothing was drawn) and logprobs_BN, the model's own at temperature 1.
        """
        return self._decode(self.loaded.params, self.loaded.buffers, rows, draws, steps)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=4)
    def _read(self, params: Any, buffers: Any, part: Batch, cache: Cache, hidden_BD: jax.Array | None):
        hidden_BTD, cache = self.loaded.module(params, buffers).extend(part, cache)
        real_B = (part.segment_ids != PADDING_SEGMENT).sum(1)
        last_BD = jnp.take_along_axis(hidden_BTD, jnp.maximum(real_B - 1, 0)[:, None, None], axis=1)[:, 0]
        return cache, last_BD if hidden_BD is None else jnp.where((real_B > 0)[:, None], last_BD, hidden_BD)

    @functools.partial(jax.jit, static_argnums=(0, 5), donate_argnums=3)
    def _decode(self, params: Any, buffers: Any, rows: Rows, draws: Draws, steps: int):
        model = self.loaded.module(params, buffers)

        def step(carry):
            i, rows, ids_BN, logprobs_BN = carry
            logits_BV = model.token_logits(rows.hidden_BD)
            is_text_V = jnp.arange(logits_BV.shape[1]) < self.vocabulary.text_size
            logprobs_BV = jax.nn.log_softmax(jnp.where(is_text_V, logits_BV, -jnp.inf))
            id_B = draw(logprobs_BV, rows.drawn_B, draws)
            logprob_B = jnp.take_along_axis(logprobs_BV, id_B[:, None], axis=1)[:, 0]
            ids_BN = ids_BN.at[:, i].set(jnp.where(rows.done_B, -1, id_B))
            logprobs_BN = logprobs_BN.at[:, i].set(jnp.where(rows.done_B, 0.0, logprob_B))
            return i + 1, self._next(model, rows, id_B), ids_BN, logprobs_BN

        B = rows.done_B.shape[0]
        start = (jnp.int32(0), rows, jnp.full((B, steps), -1, jnp.int32), jnp.zeros((B, steps), jnp.float32))
        carry = jax.lax.while_loop(lambda carry: (carry[0] < steps) & ~carry[1].done_B.all(), step, start)
        return carry[1:]

    def _next(self, model: Any, rows: Rows, id_B: jax.Array) -> Rows:
        """The rows after the drawn tokens; those that are done bring padding."""
        done_B = rows.done_B | (id_B == self.vocabulary.eos_id)
        segment_B = jnp.where(done_B, PADDING_SEGMENT, rows.cache.past.segment_B)
        zero_B1 = jnp.zeros_like(id_B)[:, None]
        fields = (id_B[:, None], segment_B[:, None], rows.position_B[:, None], zero_B1, zero_B1, zero_B1)
        hidden_B1D, cache = model.extend(Batch(*fields, media={}, values={}), rows.cache)
        hidden_BD = jnp.where(done_B[:, None], rows.hidden_BD, hidden_B1D[:, 0])
        return Rows(cache, hidden_BD, rows.position_B + ~done_B, rows.drawn_B + ~rows.done_B, done_B)

    def _lay_out(self, documents: Sequence[Document]) -> Batch:
        """The prompts as rows, left-aligned, their slots a whole number of pieces."""
        costs = [cost_of(document) for document in documents]
        empty = [i for i, cost in enumerate(costs) if cost.slots == 0]
        if empty:
            raise ValueError(f"prompt {empty[0]} is empty; give it at least the token <bos>")
        T = _round_up(max(cost.slots for cost in costs), _PROMPT)
        images = [element for document in documents for element in document if isinstance(element, Image)]
        shape = RowShape(
            slots=T if images or self.piece >= T else _round_up(T, self.piece),
            images=max(cost.images for cost in costs),
            image_size=images[0].pixels.shape[:2] if images else (0, 0),
            pad_id=self.vocabulary.pad_id,
            image_id=self.vocabulary.piece_id("<image>") if images else 0,
        )
        return collate([lay_out([document], shape) for document in documents])


def _slots(batch: Batch, slots: slice) -> Batch:
    names = ("tokens", "segment_ids", "positions", "span_ids", "loss_weights", "kinds")
    return dataclasses.replace(batch, **{name: getattr(batch, name)[:, slots] for name in names})


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
