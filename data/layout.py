"""Documents laid out side by side in one row of slots: the fields of `data.batch.Batch` without the batch axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from data.batch import KINDS, NO_SLOT, Batch
from data.elements import Boundary, Chunk, CorruptRecord, Cost, Document, Image, Tokens, Vector


@dataclasses.dataclass(frozen=True)
class RowShape:
    """What a row holds, and the ids that stand where no vocabulary id does.

    slots: T. images: M, each uint8[*image_size, 3]. vectors: K, with values of width A and chunks of C steps.
    chunk_proprio: whether chunks come with what the robot feels at each of their steps.
    """

    slots: int
    images: int = 0
    image_size: tuple[int, int] = (0, 0)
    vectors: int = 0
    chunk: int = 0
    width: int = 0
    chunk_proprio: bool = False
    pad_id: int = 0
    image_id: int = 0
    vector_id: int = 0

    @property
    def capacity(self) -> tuple[int, int, int]:
        return self.slots, self.images, self.vectors


def cost_of(document: Document) -> Cost:
    """What `lay_out` takes of a row for this document. A Chunk shares the vector row of the Vector it follows."""
    slots = images = vectors = 0
    unpaired: Vector | None = None
    for element in document:
        if isinstance(element, Chunk):
            vectors += not _pairs(unpaired, element)
            unpaired = None
            continue
        if isinstance(element, Boundary):
            unpaired = None
            continue
        slots += _slots_of(element)
        images += isinstance(element, Image)
        if isinstance(element, Vector):
            vectors += 1
            unpaired = element
    return Cost(slots, images, vectors)


def check(document: Document, shape: RowShape) -> None:
    """Raises ValueError where an element has not the sizes of the row, CorruptRecord where a value is not finite."""
    slots = 0
    for element in document:
        if isinstance(element, Chunk):
            if slots == 0:
                raise ValueError("a document begins with a Chunk: there is no slot before it to predict it from")
            if element.values.shape[0] != shape.chunk or element.mask.shape != element.values.shape:
                raise ValueError(
                    f"an action chunk has values {list(element.values.shape)} and mask {list(element.mask.shape)}; "
                    f"the row takes {shape.chunk} steps of up to {shape.width}, and a mask of the same shape"
                )
            _check_values(element.values, element.values[element.mask], shape, "an action chunk")
            if shape.chunk_proprio:
                _check_chunk_proprio(element, shape)
            continue
        if isinstance(element, Boundary):
            slots = 0
            continue
        slots += _slots_of(element)
        if isinstance(element, Vector):
            _check_values(element.values, element.values, shape, "a vector")
        elif isinstance(element, Image):
            given = (element.pixels.dtype, element.pixels.shape)
            if given != (np.uint8, (*shape.image_size, 3)):
                raise ValueError(f"an image is {given[0]}{list(given[1])}, the row takes uint8{[*shape.image_size, 3]}")


def _check_chunk_proprio(chunk: Chunk, shape: RowShape) -> None:
    if chunk.proprio is None or chunk.proprio.shape[0] != shape.chunk:
        given = None if chunk.proprio is None else list(chunk.proprio.shape)
        raise ValueError(
            f"an action chunk has proprio {given}; with chunk_proprio the row takes one vector for each of its "
            f"{shape.chunk} steps: give it, or set pipeline.chunk_proprio to False"
        )
    _check_values(chunk.proprio, chunk.proprio, shape, "the proprioception of a chunk")


def _check_values(values: np.ndarray, used: np.ndarray, shape: RowShape, what: str) -> None:
    if values.shape[-1] > shape.width:
        raise ValueError(f"{what} is {values.shape[-1]} wide, the row takes up to {shape.width}; raise width")
    if not np.isfinite(used).all():
        raise CorruptRecord(f"{what} holds a value that is not finite")


def lay_out(documents: Sequence[Document], shape: RowShape) -> Batch:
    """One row (a Batch whose arrays lack the B axis) with the documents as segments 1, 2, ... and padding after them.

    A document with a Boundary is two segments. The first slot of a segment is never a target. Raises as `check` does,
    and ValueError where the documents together exceed the row.
    """
    row = _empty(shape)
    slot = images = vectors = 0
    parts = [part for document in documents for part in _segments_of(document)]
    for segment, document in enumerate(parts, start=1):
        check(document, shape)
        cost = cost_of(document)
        total = (slot + cost.slots, images + cost.images, vectors + cost.vectors)
        if any(taken > room for taken, room in zip(total, shape.capacity, strict=True)):
            raise ValueError(f"documents need {total} slots, images and vectors; the row holds {shape.capacity}")
        _Segment(row, shape, slot, images, vectors).fill(document, segment)
        slot, images, vectors = total
    return row


def _segments_of(document: Document) -> list[Document]:
    """The parts between boundaries."""
    cuts = [i for i, element in enumerate(document) if isinstance(element, Boundary)]
    return [document[a + 1 : b] for a, b in zip([-1, *cuts], [*cuts, len(document)], strict=True)]


def collate(rows: Sequence[Batch]) -> Batch:
    """Rows stacked into a Batch."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *rows)


def _empty(shape: RowShape) -> Batch:
    T, M, K, C, A = shape.slots, shape.images, shape.vectors, shape.chunk, shape.width
    zeros = np.zeros(T, np.int32)
    media, values = {}, {}
    if M:
        media = {"image": np.zeros((M, *shape.image_size, 3), np.uint8), "image_slot": np.full(M, NO_SLOT, np.int32)}
    if K:
        values = {
            "proprio": np.zeros((K, A), np.float32),
            "proprio_slot": np.full(K, NO_SLOT, np.int32),
            "action": np.zeros((K, C, A), np.float32),
            "action_slot": np.full(K, NO_SLOT, np.int32),
            "action_mask": np.zeros((K, C, A), bool),
            "embodiment": np.zeros(K, np.int32),
        }
        if shape.chunk_proprio:
            values["chunk_proprio"] = np.zeros((K, C, A), np.float32)
    tokens = np.full(T, shape.pad_id, np.int32)
    weights = np.zeros(T, np.float32)
    return Batch(tokens, zeros, zeros.copy(), zeros.copy(), weights, zeros.copy(), media, values)


class _Segment:
    """Writes one document into a row, from the given slot, image and vector on."""

    def __init__(self, row: Batch, shape: RowShape, slot: int, images: int, vectors: int):
        self.row, self.shape = row, shape
        self.start, self.slot, self.images, self.vectors = slot, slot, images, vectors
        self.unpaired: Vector | None = None

    def fill(self, document: Document, segment: int) -> None:
        for element in document:
            if isinstance(element, Chunk):
                self._chunk(element)
                continue
            assert not isinstance(element, Boundary)
            here = slice(self.slot, self.slot + _slots_of(element))
            if isinstance(element, Tokens):
                self.row.tokens[here] = element.ids
                self.row.loss_weights[here] = element.weights
                self.row.kinds[here] = KINDS.index(element.kind)
            elif isinstance(element, Image):
                self._image(element, here)
            else:
                self._vector(element, here)
            self.slot = here.stop
        whole = slice(self.start, self.slot)
        self.row.segment_ids[whole] = segment
        self.row.positions[whole] = np.arange(self.slot - self.start)
        self.row.loss_weights[self.start : self.start + 1] = 0

    def _image(self, image: Image, here: slice) -> None:
        media = self.row.media
        media["image"][self.images] = image.pixels
        media["image_slot"][self.images] = here.start
        self.images += 1
        self.row.tokens[here] = self.shape.image_id
        self.row.kinds[here] = KINDS.index("image")
        self.row.span_ids[here] = self.images  # from 1, unique in the row

    def _vector(self, vector: Vector, here: slice) -> None:
        self.row.values["proprio"][self.vectors, : len(vector.values)] = vector.values
        self.row.values["proprio_slot"][self.vectors] = here.start
        self.row.values["embodiment"][self.vectors] = vector.embodiment
        self.vectors += 1
        self.unpaired = vector
        self.row.tokens[here] = self.shape.vector_id
        self.row.kinds[here] = KINDS.index("proprio")

    def _chunk(self, chunk: Chunk) -> None:
        if _pairs(self.unpaired, chunk):
            k = self.vectors - 1
        else:
            k, self.vectors = self.vectors, self.vectors + 1
        self.unpaired = None
        width = chunk.values.shape[1]
        self.row.values["action"][k, :, :width] = np.where(chunk.mask, chunk.values, 0)
        self.row.values["action_mask"][k, :, :width] = chunk.mask
        self.row.values["action_slot"][k] = self.slot - 1
        self.row.values["embodiment"][k] = chunk.embodiment
        if self.shape.chunk_proprio:
            assert chunk.proprio is not None
            self.row.values["chunk_proprio"][k, :, : chunk.proprio.shape[1]] = chunk.proprio


def _slots_of(element: Tokens | Image | Vector) -> int:
    if isinstance(element, Tokens):
        return len(element.ids)
    return element.num_slots if isinstance(element, Image) else 1


def _pairs(vector: Vector | None, chunk: Chunk) -> bool:
    return vector is not None and vector.embodiment == chunk.embodiment
