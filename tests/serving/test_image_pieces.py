"""Pieces of prompts hold every slot once and no part of a picture."""

import numpy as np
import pytest

from data.elements import Image
from data.layout import RowShape, collate, lay_out
from serving.image_pieces import image_pieces
from serving.prompts import text_tokens


def random_rows(seed: int):
    """Three rows of text with up to four pictures of five slots, some side by side; every picture has its own grey."""
    rng = np.random.default_rng(seed)
    documents = []
    for row in range(3):
        elements = [text_tokens(rng.integers(1, 9, rng.integers(1, 9)))]
        for i in range(rng.integers(0, 5)):
            elements.append(Image(np.full((2, 2, 3), 10 * row + i, np.uint8), 5))
            elements += [text_tokens(rng.integers(1, 9, rng.integers(1, 9)))] if rng.random() < 0.7 else []
        documents.append(tuple(elements))
    shape = RowShape(slots=64, images=4, image_size=(2, 2))
    return collate([lay_out([document], shape) for document in documents])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("piece", [1, 4, 5, 11, 64])
def test_pieces_hold_every_slot_once_and_each_picture_whole_and_where_it_was(seed, piece):
    rows = random_rows(seed)
    lengths_B = (rows.segment_ids > 0).sum(1)
    start = 0
    seen: dict[tuple[int, int], int] = {}
    for part in image_pieces(rows, piece, 4):
        assert part.tokens.shape[1] % 4 == 0
        real_B = (part.segment_ids > 0).sum(1)
        length = int(real_B.max())
        if length > piece:  # then every cut before its end would have parted a picture of some row
            spans = part.span_ids[:, :length]
            assert ((spans[:, 1:] == spans[:, :-1]) & (spans[:, 1:] > 0)).any(0).all()
        for name in ("tokens", "positions", "span_ids"):
            found = getattr(part, name)[:, :length]
            np.testing.assert_array_equal(found, getattr(rows, name)[:, start : start + length])
            assert not getattr(part, name)[:, length:].any()
        assert (real_B == np.clip(lengths_B - start, 0, length)).all()
        for b, slots in enumerate(part.media.get("image_slot", np.zeros((3, 0), int))):
            for m, slot in enumerate(slots.tolist()):
                if slot >= 0:
                    assert slot + 5 <= length
                    seen[b, start + slot] = part.media["image"][b, m, 0, 0, 0]
        start += length
    assert start == lengths_B.max()
    before = rows.media["image_slot"]
    wanted = {
        (b, before[b, m]): rows.media["image"][b, m, 0, 0, 0] for b, m in zip(*np.nonzero(before >= 0), strict=True)
    }
    assert seen == wanted
