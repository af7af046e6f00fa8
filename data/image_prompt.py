"""Text with pictures in it as a document, in the form that its vocabulary knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data.elements import Document, Element, Image, Tokens
from data.image_processing import PanAndScan, views
from data.vocabulary import Vocabulary

Span = tuple[str | int, float]  # text, or the id of a symbol, and the weight of its tokens as targets


@dataclasses.dataclass(frozen=True)
class ImageMarks:
    """What stands for a picture in text, and what stands around its slots."""

    placeholder: str
    before: tuple[str, ...] = ()  # pieces
    after: tuple[str, ...] = ()
    apart: str = ""  # text on both sides of those

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> ImageMarks:
        """Ours have the symbol `<image>`; others are taken to be Gemma 3's, in the form of HF transformers."""
        if vocabulary.has_symbols:
            return cls("<image>")
        return cls("<start_of_image>", ("<start_of_image>",), ("<end_of_image>",), "\n\n")

    def expanded(self, text: str, num_crops: Sequence[int]) -> str:
        """The text with a placeholder for each picture and for each of its crops, and what is said about them.

        Text without placeholders gets its pictures at the beginning. Raises ValueError for another number than given.
        """
        parts = text.split(self.placeholder)
        if len(parts) == 1:
            parts = [*[""] * len(num_crops), text]
        if len(parts) - 1 != len(num_crops):
            raise ValueError(
                f"the prompt has {len(parts) - 1} times {self.placeholder!r} for {len(num_crops)} pictures; mark the "
                "place of each, or of none to have them first"
            )
        one = f"{self.apart}{self.placeholder}{self.apart}"
        said = [
            f"Here is the original image {one} and here are some crops to help you see better " + " ".join([one] * n)
            if n
            else one
            for n in num_crops
        ]
        return "".join(part + picture for part, picture in zip(parts, [*said, ""], strict=True))


@dataclasses.dataclass(frozen=True)
class ImageForm:
    """What a model makes of a picture: its height and width, and the slots that it fills."""

    size: tuple[int, int]
    num_slots: int


def image_prompt(
    text: str,
    pictures: Sequence[np.ndarray],
    vocabulary: Vocabulary,
    form: ImageForm,
    pan_and_scan: PanAndScan | None = None,
) -> Document:
    """`<bos>`, then the text with its pictures (uint8[H,W,3], any size) at the placeholders of `ImageMarks`.

    pan_and_scan: shows crops of pictures that are far from square, too.

    Raises:
        ValueError: another number of placeholders than pictures, or a vocabulary without the pieces around them.
    """
    seen = [views(picture, form.size, pan_and_scan) for picture in pictures]
    images = [Image(pixels, form.num_slots) for each in seen for pixels in each]
    expanded = ImageMarks.of(vocabulary).expanded(text, [len(each) - 1 for each in seen])
    return document_of([(vocabulary.bos_id, 0.0), (expanded, 0.0)], images, vocabulary)


def document_of(spans: Sequence[Span], images: Sequence[Image], vocabulary: Vocabulary) -> Document:
    """Spans one after the other, each tokenised by itself, with the images at the placeholders that they hold.

    What stands around an image is never a target.
    """
    marks = ImageMarks.of(vocabulary)
    before, after = (
        [vocabulary.piece_id(p) for p in pieces] if images else [] for pieces in (marks.before, marks.after)
    )
    document: list[Element] = []
    ids: list[int] = []
    weights: list[float] = []

    def add(new: Sequence[int], weight: float) -> None:
        ids.extend(new)
        weights.extend([weight] * len(new))

    def flush() -> None:
        if ids:
            document.append(Tokens(np.array(ids, np.int32), np.array(weights, np.float32)))
        ids.clear()
        weights.clear()

    waiting = iter(images)
    for content, weight in spans:
        if isinstance(content, int):
            add([content], weight)
            continue
        for i, part in enumerate(content.split(marks.placeholder) if images else [content]):
            if i:
                add(before, 0.0)
                flush()
                document.append(next(waiting))
                add(after, 0.0)
            add(vocabulary.encode(part), weight)
    flush()
    return tuple(document)
