"""Models of transformers loaded here, and the documents that they computed with as batches."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.batch import Batch
from data.elements import Document, Image, Tokens
from data.layout import RowShape, collate, lay_out
from model.cache import empty_cache
from model.config import ModelConfig
from model.model import create, join, split
from serving.interchange.files import ModelFolder
from serving.interchange.stacking import flat, nested

SLOTS, SOFT = 4, 90  # of a picture, and the token that stands in each


def load(path: Path) -> tuple[ModelFolder, Any, Any, Any]:
    """(folder, graph, params, buffers) with layers one by one; buffers are zeros"""
    folder = ModelFolder(path)
    config = dataclasses.replace(folder.config, scan=False)
    graph, params, buffers = split(jax.eval_shape(lambda: create(config, folder.vocab_size, 0)))
    arrays = {path: np.full(leaf.shape, np.nan, np.float32) for path, leaf in flat(params).items()}
    for entry, part in folder.parts({path: array.shape for path, array in arrays.items()}):
        arrays[entry.ours][entry.index] = part
    assert not any(np.isnan(array).any() for array in arrays.values())  # every element came from the file
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), buffers)
    return folder, graph, jax.tree.map(jnp.asarray, nested(arrays)), zeros


def document(ids: np.ndarray, pictures: Sequence[np.ndarray]) -> Document:
    """The tokens with the pictures in place of their slots."""
    left, is_slot = iter(pictures), ids == SOFT
    starts = np.flatnonzero(is_slot & ~np.roll(is_slot, 1)) if len(pictures) else []
    elements, at = [], 0
    for start in [*starts, len(ids)]:
        text = ids[at:start]
        elements.append(Tokens(text, np.ones(len(text), np.float32)))
        if start < len(ids):
            elements.append(Image(next(left), SLOTS))
        at = start + SLOTS
    return tuple(elements)


def rows(*packed: tuple[Document, ...], slots: int, side: int) -> Batch:
    """`side`: of pictures, 0 where the model sees none."""
    shape = RowShape(slots, images=3, image_size=(side, side), image_id=SOFT) if side else RowShape(slots)
    return collate([lay_out(row, shape) for row in packed])


def _part_of(batch: Batch, slots: np.ndarray) -> Batch:
    """Consecutive slots of every row, to be read after those before them."""
    names = ("tokens", "segment_ids", "positions", "span_ids", "loss_weights", "kinds")
    media = dict(batch.media)
    if media:
        at = media["image_slot"]
        media["image_slot"] = np.where((at >= slots[0]) & (at <= slots[-1]), at - slots[0], -1)
    return Batch(**{name: getattr(batch, name)[:, slots] for name in names}, media=media, values={})


def logits_by_pieces(
    config: ModelConfig, graph: Any, states: tuple[Any, Any], row: Batch, cuts: Sequence[int]
) -> np.ndarray:
    """Of a single row through caches, cut before these slots and, after the last of them, before every slot.

    states: parameters and buffers. The row's padding is left out.
    """
    length = int((row.segment_ids > 0).sum())
    cache, logits = empty_cache(dataclasses.replace(config, scan=False), 1, max_slots=length), []

    @jax.jit
    def extended(states, part, cache):
        model = join(graph, *states)
        hidden_BTD, cache = model.extend(part, cache)
        return model.token_logits(hidden_BTD)[0], cache

    for slots in np.split(np.arange(length), [*cuts, *range(max(cuts) + 1, length)]):
        part, cache = extended(states, _part_of(row, slots), cache)
        logits.append(part)
    return np.concatenate(logits)


def next_token_loss(logits_TV: jax.Array, batch: Any) -> jax.Array:
    """The mean over the first row's tokens that are targets."""
    target_T, weight_T = jnp.roll(batch.tokens[0], -1), jnp.roll(batch.loss_weights[0], -1)
    logprobs_TV = jax.nn.log_softmax(logits_TV)
    own_T = jnp.take_along_axis(logprobs_TV, target_T[:, None], 1)[:, 0]
    return -jnp.sum(own_T * weight_T) / weight_T.sum()


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert wanted.std() > 0.1
    assert np.abs(found - wanted).max() <= 1e-4 * max(1, np.abs(wanted).max())
