"""The weights of a checkpoint alone, in the arrays that Orbax reads."""

from __future__ import annotations

from pathlib import Path

from serving.interchange.array_store import BLOCK_BYTES, ArrayStore
from serving.interchange.copying import block_rows
from serving.interchange.gate import CACHE_BYTES, ExportError, equal_bits
from serving.interchange.source import Source
from serving.interchange.stacking import StoredItem
from serving.interchange.tensor_files import Shape


def write_weights(folder: Path, source: Source) -> None:
    """The stored form, one layer of one array at a time."""
    shapes, chunks = {}, {}
    for path, place in source.places.items():
        shape = source.shape(path)
        part, itemsize = shape.dims, shape.dtype.itemsize
        shapes[place.path] = Shape(source.stored[place.path].dims, shape.dtype)
        rows = (block_rows(part, itemsize, BLOCK_BYTES), *part[1:]) if part else ()
        chunks[place.path] = (*(1 for _ in place.index), *rows)
    store, params = ArrayStore.create(folder, shapes, chunks), source.cached(source.largest_array)
    for path, place in source.places.items():
        store.write(place.path, place.index, source.read(params, path))


def refuse_unequal(folder: Path, source: Source) -> None:
    """Raises ExportError for a parameter that differs from the source in any bit."""
    written, params = StoredItem(folder, source.config), source.cached(CACHE_BYTES)
    for path, place in source.places.items():
        if path not in written.shapes or not equal_bits(written.read(path), source.read(params, path)):
            raise ExportError(f"the parameter {place.path!r} read back differs from the checkpoint's")
