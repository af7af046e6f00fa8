"""What every data set looks like to mixing and packing: documents by index, their costs known without decoding."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from data.elements import Document


@runtime_checkable
class Source(Protocol):
    """A finite, indexable, unchanging set of documents; read from several threads and processes at once."""

    def __len__(self) -> int: ...

    def costs(self) -> np.ndarray:
        """int32[N,3]: slots, images and vectors of every document (`elements.Cost`), without decoding any."""
        ...

    def __getitem__(self, index: int) -> Document:
        """Document `index`, always the same. Raises CorruptRecord where it cannot be read."""
        ...


@runtime_checkable
class VariedSource(Source, Protocol):
    """A source whose documents look different every epoch, as with augmented images; training reads `visit`."""

    def visit(self, index: int, epoch: int) -> Document:
        """Document `index` as it is seen in an epoch: a pure function of both, and of the same cost in all epochs."""
        ...
