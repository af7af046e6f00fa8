"""One tensor in two layouts: which of ours holds which of theirs, and the exact map between them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

Index = tuple[int | slice, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How their array becomes ours, of the given shape, and back. Elements are moved, never changed."""

    to_ours: Callable[[np.ndarray, Sequence[int]], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda x, shape: x.reshape(shape), lambda x: x)
# A torch linear layer is [out, in].
LINEAR = Layout(lambda x, shape: x.T.reshape(shape), lambda x: x.T)
LINEAR_TO_HEADS = Layout(lambda x, shape: x.T.reshape(shape), lambda x: x.reshape(x.shape[0], -1).T)
LINEAR_FROM_HEADS = Layout(lambda x, shape: x.T.reshape(shape), lambda x: x.reshape(-1, x.shape[-1]).T)
EXPERTS = Layout(lambda x, shape: x.swapaxes(1, 2).reshape(shape), lambda x: x.swapaxes(1, 2))


@dataclasses.dataclass(frozen=True)
class Entry:
    """Their tensor `theirs` is our parameter `ours` (a path joined by "/"), or the part `index` of it."""

    theirs: str
    ours: str
    layout: Layout = SAME
    index: Index = ()


def part_shape(entry: Entry, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of `array[entry.index]` for an array of our parameter's shape."""
    return np.broadcast_to(np.empty((), np.int8), shape)[entry.index].shape


def their_shape(entry: Entry, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of their tensor for our parameter's shape."""
    return entry.layout.to_theirs(np.broadcast_to(np.empty((), np.int8), part_shape(entry, shape))).shape


def read_part(entry: Entry, theirs: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Their array in our layout.

    Raises:
        ValueError: another number of elements than our part has.
    """
    wanted = part_shape(entry, shape)
    if theirs.size != math.prod(wanted):
        raise ValueError(
            f"{entry.theirs} has shape {list(theirs.shape)}, but {entry.ours} needs {list(wanted)}; "
            "the file and its config.json do not belong together"
        )
    return entry.layout.to_ours(theirs, wanted)


def write_part(entry: Entry, ours: np.ndarray) -> np.ndarray:
    """Our whole parameter's part in their layout, contiguous."""
    return np.ascontiguousarray(entry.layout.to_theirs(ours[entry.index]))
