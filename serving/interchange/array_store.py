"""An item of an Orbax checkpoint (`params`, `ema`, `buffers`) read, through TensorStore, and written part by part.

Orbax itself reads and writes whole arrays. What is written here are the zarr arrays and the `_METADATA` that Orbax
reads: one folder an array and no compression, because random bits do not shrink and one database for all (OCDBT) took
ten times as long. What Orbax wrote is read in either form.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (so that NumPy knows bfloat16)
import numpy as np
import tensorstore as ts

from serving.interchange.tensor_files import Shape, blocks
from serving.interchange.tensors import Index

BLOCK_BYTES = 64 << 20  # of a chunk
_STRIP = 1 << 20  # bytes written at once: a transposed array is copied fastest in strips that the caches hold
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

    def read(self, path: str, index: Index = ()) -> np.ndarray:
        return np.asarray(self.arrays[path][index].read().result())

    def write(self, path: str, index: Index, part: np.ndarray) -> None:
        """The whole chunks that `index` covers, each a file of raw numbers, copied a strip at a time.

        TensorStore would take a copy of the part and encode another: most of its time went into clearing their pages.
        """
        array = self.arrays[path]
        chunk: tuple[int, ...] = tuple(array.chunk_layout.read_chunk.shape or ())
        index = (*index, *(slice(None) for _ in chunk[len(index) :]))
        first = [i if isinstance(i, int) else i.indices(n)[0] for i, n in zip(index, array.shape, strict=True)]
        part = part[tuple(None if isinstance(i, int) else slice(None) for i in index)]
        counts = [-(-size // own) for size, own in zip(part.shape, chunk, strict=True)]
        for cell in np.ndindex(*counts):
            block = part[tuple(slice(i * own, (i + 1) * own) for i, own in zip(cell, chunk, strict=True))]
            key = [start // own + i for start, own, i in zip(first, chunk, cell, strict=True)]
            _write_chunk(Path(array.kvstore.path) / (".".join(map(str, key)) or "0"), block, chunk)


def _write_chunk(file: Path, block: np.ndarray, chunk: tuple[int, ...]) -> None:
    """In row-major order; a block that ends early, at the array's edge, is followed by zeros."""
    long = [k for k, size in enumerate(chunk) if size > 1]
    assert all(block.shape[k] == chunk[k] for k in long[1:]), (block.shape, chunk)
    block = np.squeeze(block, tuple(k for k, size in enumerate(chunk) if size == 1))
    with file.open("wb") as opened:
        for strip in blocks(block.shape, block.dtype.itemsize, _STRIP):
            opened.write(np.ascontiguousarray(block[strip]).reshape(-1).view(np.uint8))
        opened.truncate(math.prod(chunk) * block.dtype.itemsize)


def _kvstore(folder: Path, keys: list[str], *, ocdbt: bool) -> dict[str, Any]:
    name = ".".join(keys) + "/"
    if ocdbt:
        return {"driver": "ocdbt", "base": f"file://{folder.resolve()}/", "path": name}
    return {"driver": "file", "path": f"{folder.resolve()}/{name}"}
