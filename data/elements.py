"""What a document is made of before it is packed: tokens, images, vectors and action chunks in reading order."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Vocabulary ids, each with its own weight as a target. `kind` is one of `data.batch.KINDS`."""

    ids: np.ndarray  # int32[n]
    weights: np.ndarray  # float32[n]; 0 = never predicted
    kind: str = "text"


@dataclasses.dataclass(frozen=True)
class Image:
    """A picture that fills `num_slots` slots and is one bidirectional span."""

    pixels: np.ndarray  # uint8[H,W,3]
    num_slots: int


@dataclasses.dataclass(frozen=True)
class Vector:
    """A continuous observation (proprioception) of one embodiment; fills one slot."""

    values: np.ndarray  # float32[a], a <= A, normalised
    embodiment: int


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Actions predicted from the slot just before this element; fills no slot of its own."""

    values: np.ndarray  # float32[C,a], a <= A, normalised
    mask: np.ndarray  # bool[C,a], false past the end of the episode
    embodiment: int
    proprio: np.ndarray | None = None  # float32[C,p], what the robot feels at each of the steps, as its Vector says it


@dataclasses.dataclass(frozen=True)
class Boundary:
    """What follows is a segment of its own in the same row: the other half of a pair. Fills no slot."""


Element = Tokens | Image | Vector | Chunk | Boundary
Document = tuple[Element, ...]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a document takes of a row's capacity, known without decoding it."""

    slots: int
    images: int = 0
    vectors: int = 0  # rows of `values`: a Vector and the Chunk that follows it share one


class CorruptRecord(ValueError):
    """A record that cannot be read; the message names the file, the record and what is wrong with it."""
