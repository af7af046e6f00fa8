"""Files of the safetensors format, read and written one tensor at a time at known places."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from serving.interchange.copying import mapped, write_array

DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16)}
QUANTISED = {"I8": np.dtype(np.int8), "U8": np.dtype(np.uint8), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn)}
_NAMES = {dtype: name for name, dtype in (DTYPES | QUANTISED).items()}
_BLOCK = 16 << 20  # bytes compared at once
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a tensor is, wherever it lies."""

    dims: tuple[int, ...]
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.dims) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor's place: its bytes begin at `start` of `file`, in row-major order."""

    shape: Shape
    file: Path
    start: int

    def read(self) -> np.ndarray:
        """Read-only, and mapped until it is dropped."""
        return mapped(self.file, self.shape.dims, self.shape.dtype, self.start)

    def part(self, index: tuple[slice, ...]) -> StoredTensor:
        """Some rows, by a slice of the first dim; all of it without one."""
        if not index:
            return self
        (rows,) = index
        dims = (rows.stop - rows.start, *self.shape.dims[1:])
        start = self.start + rows.start * math.prod(dims[1:]) * self.shape.dtype.itemsize
        return dataclasses.replace(self, shape=Shape(dims, self.shape.dtype), start=start)

    def equals(self, other: StoredTensor) -> bool:
        """Bit for bit, a block at a time."""
        if self.shape != other.shape:
            return False
        with self.file.open("rb") as mine, other.file.open("rb") as theirs:
            mine.seek(self.start)
            theirs.seek(other.start)
            sizes = (min(_BLOCK, self.shape.num_bytes - at) for at in range(0, self.shape.num_bytes, _BLOCK))
            return all(mine.read(size) == theirs.read(size) for size in sizes)

    def write(self, array: np.ndarray) -> None:
        assert (array.shape, array.dtype) == (self.shape.dims, self.shape.dtype)
        with self.file.open("r+b") as file:
            file.seek(self.start)
            write_array(file, array)


def open_tensors(folder: Path, dtypes: Mapping[str, np.dtype] = DTYPES) -> dict[str, StoredTensor]:
    """The tensors of `model.safetensors`, or of the shards that its index names.

    Raises:
        ValueError: no file, a shard or tensor that is missing, a file cut short, or a dtype other than `dtypes`.
    """
    if not (folder / _INDEX).is_file():
        if not (folder / _WHOLE).is_file():
            raise ValueError(f"{folder} holds neither {_WHOLE} nor its index; convert the weights to safetensors")
        return _read_header(folder / _WHOLE, dtypes)
    weight_map: dict[str, str] = json.loads((folder / _INDEX).read_text())["weight_map"]
    shards: dict[str, dict[str, StoredTensor]] = {}
    for file in sorted(set(weight_map.values())):
        if not (folder / file).is_file():
            raise ValueError(f"{folder}: {file} is named in the index but not there; fetch it again")
        shards[file] = _read_header(folder / file, dtypes)
    for name, file in weight_map.items():
        if name not in shards[file]:
            raise ValueError(
                f"{folder}: the index puts the tensor {name!r} in {file}, which lacks it; fetch both again"
            )
    return {name: shards[file][name] for name, file in weight_map.items()}


def create_tensors(folder: Path, shapes: Mapping[str, Shape], max_shard_bytes: int) -> dict[str, StoredTensor]:
    """Writes the headers, and an index if there are several shards; every tensor is then to be written once.

    A shard takes tensors in the given order up to `max_shard_bytes`; a larger tensor gets a shard of its own.
    """
    shards = _divided(shapes, max_shard_bytes)
    single = len(shards) == 1
    files = [_WHOLE if single else f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    stored: dict[str, StoredTensor] = {}
    for file, names in zip(files, shards, strict=True):
        stored |= _write_header(folder / file, {name: shapes[name] for name in names})
    if not single:
        total = sum(shape.num_bytes for shape in shapes.values())
        weight_map = {name: tensor.file.name for name, tensor in sorted(stored.items())}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return stored


def _divided(shapes: Mapping[str, Shape], max_shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        if shards[-1] and filled + shape.num_bytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += shape.num_bytes
    return shards


def _write_header(file: Path, shapes: Mapping[str, Shape]) -> dict[str, StoredTensor]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses files without it
    end = 0
    for name, shape in shapes.items():
        span = [end, end + shape.num_bytes]
        header[name] = {"dtype": _NAMES[shape.dtype], "shape": list(shape.dims), "data_offsets": span}
        end = span[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data are aligned
    start = 8 + len(text)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(start + end)
    return {name: StoredTensor(shape, file, start + header[name]["data_offsets"][0]) for name, shape in shapes.items()}


def _read_header(file: Path, dtypes: Mapping[str, np.dtype]) -> dict[str, StoredTensor]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        text = opened.read(length) if 8 + length <= size else b""
    try:
        header: dict[str, Any] = json.loads(text)
    except ValueError:
        raise ValueError(f"{file} is no whole safetensors file; fetch it again") from None
    header.pop("__metadata__", None)
    stored = {}
    for name, entry in header.items():
        if entry["dtype"] not in dtypes:
            raise ValueError(
                f"{file}: the tensor {name!r} is {entry['dtype']}; allowed: {', '.join(dtypes)}. Convert it first"
            )
        first, last = entry["data_offsets"]
        shape = Shape(tuple(entry["shape"]), dtypes[entry["dtype"]])
        if last - first != shape.num_bytes or 8 + length + last > size:
            raise ValueError(f"{file} is cut short at the tensor {name!r}; fetch it again")
        stored[name] = StoredTensor(shape, file, 8 + length + first)
    return stored
