"""An item of an Orbax checkpoint (`params`, `ema`, `buffers`) read, through TensorStore, and written part by part.

Orbax itself reads and writes whole arrays. What is written here are the zarr arrays and the `_METADATA` that Orbax
reads: one folder an array and no compression, because random bits do not shrink and one database for all (OCDBT) took
ten times as long. What Orbax wrote is read in either form.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (so that NumPy knows bfloat16)
import numpy as np
import tensorstore as ts

from serving.interchange.copying import mapped, write_array
from serving.interchange.tensor_files import Shape
from serving.interchange.tensors import Index

BLOCK_BYTES = 64 << 20  # of a chunk
_ZARR_DTYPES = {"float32": "<f4", "bfloat16": "bfloat16", "int32": "<i4"}


@dataclasses.dataclass(frozen=True)
class ArrayStore:
    """The arrays of one item by their paths, joined by `/`."""

    arrays: dict[str, Any]  # of ts.TensorStore

    @classmethod
    def open(cls, folder: Path, *, cache_bytes: int = 0) -> ArrayStore:
        """`cache_bytes`: how much of the chunks that were decoded last is kept for the next parts of them."""
        metadata = json.loads((folder / "_METADATA").read_text())
        uncached, cached = ts.Context(), ts.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})
        driver = "zarr3" if metadata.get("use_zarr3", False) else "zarr"
        arrays = {}
        for node in metadata["tree_metadata"].values():
            keys = [key["key"] for key in node["key_metadata"]]
            kvstore = _kvstore(folder, keys, ocdbt=metadata.get("use_ocdbt", True))
            # Else a cached chunk's file would be looked at for every part.
            spec = {"driver": driver, "kvstore": kvstore, "recheck_cached_data": "open"}
            array = ts.open(spec, context=uncached, open=True, read=True).result()
            chunk: Any = array.chunk_layout.read_chunk.shape or ()  # None for a single number
            if len(chunk) > 2 and chunk[0] > 1:  # layers or experts in one chunk; a cache would slow others down
                array = ts.open(spec, context=cached, open=True, read=True).result()
            arrays["/".join(keys)] = array
        return cls(arrays)

    @classmethod
    def create(cls, folder: Path, shapes: Mapping[str, Shape], chunks: Mapping[str, tuple[int, ...]]) -> ArrayStore:
        """Arrays that hold nothing yet; every element is then to be written once."""
        folder.mkdir()
        # A copy of files is not forced to the disk either.
        context = ts.Context({"file_io_sync": False})
        arrays, tree = {}, {}
        for path, shape in shapes.items():
            keys = path.split("/")
            metadata = {
                "shape": list(shape.dims),
                "chunks": list(chunks[path]),
                "dtype": _ZARR_DTYPES[shape.dtype.name],
                "compressor": None,
                "filters": None,
                "fill_value": None,
                "order": "C",
                "dimension_separator": ".",
            }
            spec = {"driver": "zarr", "kvstore": _kvstore(folder, keys, ocdbt=False), "metadata": metadata}
            arrays[path] = ts.open(spec, context=context, create=True).result()
            value = {"value_type": "jax.Array", "skip_deserialize": False, "write_shape": list(shape.dims)}
            tree[str(tuple(keys))] = {
                "key_metadata": [{"key": key, "key_type": 2} for key in keys],  # 2: of a dictionary
                "value_metadata": value,
            }
        layout = {"use_ocdbt": False, "use_zarr3": False, "store_array_data_equal_to_fill_value": True}
        (folder / "_METADATA").write_text(json.dumps({"tree_metadata": tree, **layout, "custom_metadata": None}))
        return cls(arrays)

    def shape(self, path: str) -> Shape:
        array = self.arrays[path]
        return Shape(tuple(array.shape), np.dtype(array.dtype.numpy_dtype))

    def row_blocks(self, path: str, dim: int) -> list[tuple[slice, ...]]:
        """Slices of the dim that together cover it, each of whole chunks; of a single number, that it is whole."""
        array = self.arrays[path]
        if dim == array.rank:
            return [()]
        size = (array.chunk_layout.read_chunk.shape or array.shape)[dim]
        return [(slice(start, min(start + size, array.shape[dim])),) for start in range(0, array.shape[dim], size)]

    def read(self, path: str, index: Index = ()) -> np.ndarray:
        """Maybe read-only, and mapped until it is dropped."""
        array = self.arrays[path]
        chunks = self._chunks(path, index) if _is_raw(array) else None
        if chunks is None or not all(file.is_file() for file, _ in chunks):
            return np.asarray(array[index].read().result())
        dims, dtype = tuple(array[index].shape), np.dtype(array.dtype.numpy_dtype)
        if len(chunks) == 1:
            return mapped(chunks[0][0], dims, dtype)
        part = np.empty(dims, dtype)
        for file, own in chunks:
            part[own] = mapped(file, part[own].shape, dtype)
        return part

    def write(self, path: str, index: Index, part: np.ndarray) -> None:
        """The whole chunks that `index` covers, each a file of raw numbers, copied a strip at a time.

        TensorStore would take a copy of the part and encode another: most of its time went into clearing their pages.
        """
        chunks, sizes = self._chunks(path, index), self.arrays[path].chunk_layout.read_chunk.shape
        assert chunks is not None, (path, index)
        for file, own in chunks:
            with file.open("wb") as opened:
                write_array(opened, part[*own, ...])
                opened.truncate(math.prod(sizes or ()) * part.dtype.itemsize)  # zeros beyond the array's edge

    def _chunks(self, path: str, index: Index) -> list[tuple[Path, tuple[slice, ...]]] | None:
        """The files that together are the part `index`, and what of it each holds; None if one holds more."""
        array = self.arrays[path]
        sizes: tuple[int, ...] = tuple(array.chunk_layout.read_chunk.shape or ())
        index = (*index, *(slice(None) for _ in sizes[len(index) :]))
        spans = [
            range(i, i + 1) if isinstance(i, int) else range(n)[i] for i, n in zip(index, array.shape, strict=True)
        ]
        long = [k for k, size in enumerate(sizes) if size > 1]  # of a chunk, only the first of these may end early
        for k, (span, size, n) in enumerate(zip(spans, sizes, array.shape, strict=True)):
            if span.start % size or (span.stop % size and (span.stop < n or k in long[1:])):
                return None
        cells = [range(span.start // size, -(-span.stop // size)) for span, size in zip(spans, sizes, strict=True)]
        folder, found = Path(array.kvstore.path), []
        for cell in itertools.product(*cells):
            starts = [c * size - span.start for c, size, span in zip(cell, sizes, spans, strict=True)]
            own = [slice(a, a + size) for a, size, i in zip(starts, sizes, index, strict=True) if isinstance(i, slice)]
            found.append((folder / (".".join(map(str, cell)) or "0"), tuple(own)))
        return found


def _is_raw(array: Any) -> bool:
    """Whether its chunks are files of bare numbers, which are read without TensorStore."""
    spec = array.spec().to_json()
    bare = {"compressor": None, "filters": None, "order": "C"}
    in_files = (spec["driver"], spec["kvstore"]["driver"]) == ("zarr", "file")
    return in_files and spec["metadata"].items() >= bare.items() and spec["metadata"]["dimension_separator"] == "."


def _kvstore(folder: Path, keys: list[str], *, ocdbt: bool) -> dict[str, Any]:
    name = ".".join(keys) + "/"
    if ocdbt:
        return {"driver": "ocdbt", "base": f"file://{folder.resolve()}/", "path": name}
    return {"driver": "file", "path": f"{folder.resolve()}/{name}"}
