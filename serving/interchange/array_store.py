"""An item of an Orbax checkpoint (`params`, `ema`, `buffers`) read and written part by part through TensorStore.

Orbax itself reads and writes whole arrays. What is written here are the zarr arrays and the `_METADATA` that Orbax
reads: one folder an array and no compression, because random bits do not shrink and one database for all (OCDBT) took
ten times as long. What Orbax wrote is read in either form.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (so that NumPy knows bfloat16)
import numpy as np
import tensorstore as ts

from serving.interchange.tensor_files import Shape, blocks
from serving.interchange.tensors import Index

BLOCK_BYTES = 64 << 20  # of an array that is written at once, and of a chunk
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
            chunk: Any = array.chunk_layout.read_chunk.shape
            if len(chunk) > 2 and chunk[0] > 1:  # layers or experts in one chunk; a cache would slow others down
                array = ts.open(spec, context=cached, open=True, read=True).result()
            arrays["/".join(keys)] = array
        return cls(arrays)

    @classmethod
    def create(cls, folder: Path, shapes: Mapping[str, Shape], chunks: Mapping[str, tuple[int, ...]]) -> ArrayStore:
        """Arrays that hold nothing yet; every element is then to be written once."""
        folder.mkdir()
        # A copy of files is not forced to the disk either, and forcing each chunk takes most of the time.
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
        """Block by block: while one is written, the next is copied."""
        # A region keeps the indices of the whole array; `translate_to` counts them from 0.
        region, pending = self.arrays[path][index][ts.d[:].translate_to[0]], None
        for block in blocks(part.shape, part.dtype.itemsize, BLOCK_BYTES):
            copied = np.array(part[block], order="C")
            if pending is not None:
                pending.result()
            pending = region[block].write(copied, can_reference_source_data_indefinitely=True)
        if pending is not None:
            pending.result()


def _kvstore(folder: Path, keys: list[str], *, ocdbt: bool) -> dict[str, Any]:
    name = ".".join(keys) + "/"
    if ocdbt:
        return {"driver": "ocdbt", "base": f"file://{folder.resolve()}/", "path": name}
    return {"driver": "file", "path": f"{folder.resolve()}/{name}"}
