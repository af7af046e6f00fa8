"""How tensors move between files: mapped, in blocks, two at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np

# A transposed tensor is copied fastest in tiles of strips that the caches hold.
_STRIP = 1 << 20  # bytes written at once
_TILE = 64  # columns


def write_array(file: IO[bytes], array: np.ndarray) -> None:
    """The numbers in row-major order, whatever their order in memory."""
    array = np.squeeze(array)  # so that strips are of a long dim
    if array.flags.c_contiguous:
        file.write(array.reshape(-1).view(np.uint8))
        return
    array = array.view(f"u{array.dtype.itemsize}")  # NumPy copies numbers that it does not know one by one
    strips = np.empty((block_rows(array.shape, array.dtype.itemsize, _STRIP), *array.shape[1:]), array.dtype)
    for block in blocks(array.shape, array.dtype.itemsize, _STRIP):
        strip = strips[: len(array[block])]
        for start in range(0, array.shape[-1], _TILE):
            tile = (..., slice(start, start + _TILE))
            strip[tile] = array[block][tile]
        file.write(strip.reshape(-1).view(np.uint8))


def mapped(file: Path, dims: tuple[int, ...], dtype: np.dtype, offset: int = 0) -> np.ndarray:
    """An array in a file, read-only, whose pages are the file's own and count as memory until it is dropped.

    Raises:
        ValueError: a file that ends before the array does.
    """
    num_bytes = math.prod(dims) * dtype.itemsize
    if offset + num_bytes > file.stat().st_size:
        raise ValueError(f"{file} is cut short; fetch or write it again")
    if not num_bytes:
        return np.empty(dims, dtype)
    return np.asarray(np.memmap(file, np.uint8, "r", offset, (num_bytes,))).view(dtype).reshape(dims)


def two_at_once[T](move: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """`move` of each, in order: one tensor is copied while another is on its way, and no third is in memory.

    The first error is raised, and what has not begun by then is not done.
    """
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(lambda given: move(*given), arguments)


def blocks(dims: tuple[int, ...], itemsize: int, num_bytes: int) -> Iterator[tuple[slice, ...]]:
    """Slices of the first dim, of at most `num_bytes` where a row allows, that together are an array of these dims."""
    if not dims:
        yield ()
        return
    rows = block_rows(dims, itemsize, num_bytes)
    yield from ((slice(start, min(start + rows, dims[0])),) for start in range(0, dims[0], rows))


def block_rows(dims: tuple[int, ...], itemsize: int, num_bytes: int) -> int:
    """Rows of such a block, at least one."""
    return max(1, min(dims[0], num_bytes // max(1, math.prod(dims[1:]) * itemsize)))
