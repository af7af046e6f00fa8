"""Prompts with pictures in pieces that cut none of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from data.batch import NO_SLOT, PADDING_SEGMENT, Batch
from serving.prompts import part_of, round_up


def image_pieces(rows: Batch, piece: int, multiple: int) -> Iterator[Batch]:
    """Parts of at most `piece` slots, or as long as pictures in the way are, each with the pictures in it.

    Widths are rounded up to a `multiple`, so that few programs are compiled; what that adds is padding, which the next
    part takes the place of.
    """
    end = int((rows.segment_ids != PADDING_SEGMENT).sum(1).max())
    cuts = [*(np.flatnonzero(~_inside_picture(rows)[:end]).tolist()), end]
    start = 0
    while start < end:
        ahead = [cut for cut in cuts if cut > start]
        stop = max((cut for cut in ahead if cut <= start + piece), default=ahead[0])
        part = _with_pictures(part_of(rows, slice(start, stop)), start, stop)
        yield _widened(part, round_up(stop - start, multiple))
        start = stop


def _inside_picture(rows: Batch) -> np.ndarray:
    """bool[T]: where a cut before the slot would part a picture of some row."""
    spans_BT = rows.span_ids
    same_BT = (spans_BT[:, 1:] == spans_BT[:, :-1]) & (spans_BT[:, 1:] > 0)
    return np.concatenate([[False], same_BT.any(0)])


def _with_pictures(part: Batch, start: int, stop: int) -> Batch:
    """The pictures that begin in the part come first in every row, as many as the row with the most of them has."""
    slot_BM = part.media["image_slot"]
    here_BM = (slot_BM >= start) & (slot_BM < stop)
    num = int(here_BM.sum(1).max())
    if num == 0:
        return dataclasses.replace(part, media={})
    order_BM = np.argsort(~here_BM, axis=1, kind="stable")[:, :num]
    slots_BM = np.take_along_axis(np.where(here_BM, slot_BM - start, NO_SLOT), order_BM, axis=1)
    pixels = np.take_along_axis(part.media["image"], order_BM[..., None, None, None], axis=1)
    return dataclasses.replace(part, media={"image": pixels, "image_slot": slots_BM})


def _widened(part: Batch, width: int) -> Batch:
    """With padding slots at the end."""
    more = width - part.tokens.shape[1]
    names = ("tokens", "segment_ids", "positions", "span_ids", "loss_weights", "kinds")
    padded = {name: np.pad(getattr(part, name), ((0, 0), (0, more))) for name in names}
    return dataclasses.replace(part, **padded)
