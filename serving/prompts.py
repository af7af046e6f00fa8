"""Prompts as rows of slots, whole or piece by piece."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data.batch import Batch
from data.elements import Document, Image, Tokens
from data.layout import RowShape, collate, cost_of, lay_out
from data.vocabulary import Vocabulary

Prompt = str | Document  # text, or elements such as images between tokens


def as_document(prompt: Prompt, vocabulary: Vocabulary) -> Document:
    """Text becomes `<bos>` and its pieces."""
    if not isinstance(prompt, str):
        return prompt
    return (text_tokens([vocabulary.bos_id, *vocabulary.encode(prompt)]),)


def text_tokens(ids: Sequence[int]) -> Tokens:
    """Ids of a prompt: nothing is learnt from them."""
    return Tokens(np.array(ids, np.int32), np.zeros(len(ids), np.float32))


def as_rows(documents: Sequence[Document], vocabulary: Vocabulary, slots: int) -> Batch:
    """A left-aligned row of so many slots for each. Raises ValueError for a document without any."""
    costs = [cost_of(document) for document in documents]
    for i, cost in enumerate(costs):
        if cost.slots == 0:
            raise ValueError(f"prompt {i} is empty; give it at least the token <bos>")
    images = [element for document in documents for element in document if isinstance(element, Image)]
    shape = RowShape(
        slots=slots,
        images=max(cost.images for cost in costs),
        image_size=images[0].pixels.shape[:2] if images else (0, 0),
        pad_id=vocabulary.pad_id,
        image_id=vocabulary.image_id if images else 0,
    )
    return collate([lay_out([document], shape) for document in documents])


def part_of(rows: Batch, slots: slice) -> Batch:
    """Some of the slots; `media` stays as it is."""
    names = ("tokens", "segment_ids", "positions", "span_ids", "loss_weights", "kinds")
    return dataclasses.replace(rows, **{name: getattr(rows, name)[:, slots] for name in names})


def round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
