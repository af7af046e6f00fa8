"""Small packed batches that the model's tests share."""

import numpy as np

from data.batch import Batch

VOCAB = 64


def robot_document(rng, length: int, segment: int) -> dict:
    """One document: 2 text slots, an image of 4, one proprioception slot, then text; fields of one segment."""
    slots = np.arange(length)
    image = (slots >= 2) & (slots < 6)
    return {
        "tokens": np.where(image | (slots == 6), 3, rng.integers(4, VOCAB, length)),
        "segment_ids": np.full(length, segment),
        "positions": slots,
        "span_ids": np.where(image, segment, 0),
        "loss_weights": np.where(image | (slots == 6) | (slots == 0), 0.0, 1.0),
        "kinds": np.where(image, 2, np.where(slots == 6, 3, 1)),
        "pixels": rng.integers(0, 256, (16, 16, 3)),
        "proprio": rng.normal(size=5),
        "action": rng.normal(size=(3, 5)),
        "embodiment": segment % 2,
    }


def pack(documents: list[dict], num_slots: int = 32, num_images: int = 3) -> Batch:
    """Lay documents one after the other in one row; unused image and vector entries have slot -1."""
    fields = {}
    for name in ("tokens", "segment_ids", "positions", "span_ids", "loss_weights", "kinds"):
        row = np.concatenate([d[name] for d in documents])
        row = np.pad(row, (0, num_slots - len(row)))
        fields[name] = row[None].astype(np.float32 if name == "loss_weights" else np.int32)
    starts = np.cumsum([0] + [len(d["tokens"]) for d in documents])[:-1].astype(np.int32)
    unused = num_images - len(documents)

    def stack(name: str, dtype: type) -> np.ndarray:
        stacked = np.stack([d[name] for d in documents]).astype(dtype)
        return np.pad(stacked, [(0, unused)] + [(0, 0)] * (stacked.ndim - 1))[None]

    slot = lambda offset: np.pad(starts + offset, (0, unused), constant_values=-1)[None]  # noqa: E731
    media = {"image": stack("pixels", np.uint8), "image_slot": slot(2)}
    values = {
        "proprio": stack("proprio", np.float32),
        "proprio_slot": slot(6),
        "action": stack("action", np.float32),
        "action_slot": slot(6),
        "action_mask": np.ones((1, num_images, 3, 5), bool),
        "embodiment": stack("embodiment", np.int32),
    }
    return Batch(**fields, media=media, values=values)
