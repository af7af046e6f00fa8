"""The weights of a folder of ours: safetensors by the names of our parameters, layer by layer, maybe in few bits."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.quantization import Quantization, contracted_dims
from serving.interchange.copying import two_at_once
from serving.interchange.gate import ExportError, equal_bits
from serving.interchange.source import Source
from serving.interchange.stacking import StoredItem, nested
from serving.interchange.tensor_files import (
    DTYPES,
    QUANTISED,
    Shape,
    StoredTensor,
    create_tensors,
    open_tensors,
)
from serving.quantize import dequantize, num_bytes, quantize, stored_dtype, stored_shapes

_CACHE_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Weight:
    """One parameter or buffer. contracted: the dims that a matmul sums over if it is quantised, else None."""

    shape: Shape
    contracted: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Weights:
    """What is stored, by path; `form` is that of the quantised ones."""

    weights: dict[str, Weight]
    buffers: tuple[str, ...]  # the paths that are buffers
    form: Quantization | None = None

    @classmethod
    def of(cls, source: Source, form: Quantization | None) -> Weights:
        tied = source.config.tied_head
        weights = {
            path: Weight(source.shape(path), contracted_dims(path, len(dims), tied) if form else None)
            for path, dims in source.shapes.items()
        }
        weights |= {path: Weight(shape) for path, shape in source.buffers.shapes.items()}
        return cls(weights, tuple(source.buffers.shapes), form)

    def tensors(self) -> dict[str, Shape]:
        """The tensors of the files."""
        found: dict[str, Shape] = {}
        for path, weight in self.weights.items():
            if weight.contracted is None:
                found[path] = weight.shape
                continue
            assert self.form is not None
            values, scales = stored_shapes(self.form, weight.shape.dims, weight.contracted)
            found |= {
                f"{path}.q": Shape(values, stored_dtype(self.form)),
                f"{path}.scale": Shape(scales, DTYPES["BF16"]),
            }
        return found

    @property
    def num_bytes(self) -> int:
        """The closed form of all tensors together."""
        return sum(
            weight.shape.num_bytes
            if weight.contracted is None or self.form is None
            else num_bytes(self.form, weight.shape.dims, weight.contracted)
            for weight in self.weights.values()
        )

    def states(self, tensors: Mapping[str, Any], xp: Any = np) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters and buffers in float32 from the tensors of the files; `xp`: numpy or jax.numpy."""
        params: dict[str, Any] = {}
        buffers: dict[str, Any] = {}
        for path, weight in self.weights.items():
            group = buffers if path in self.buffers else params
            if weight.contracted is None:
                group[path] = tensors[path].astype(np.float32)
                continue
            assert self.form is not None
            stored = tensors[f"{path}.q"], tensors[f"{path}.scale"]
            group[path] = dequantize(*stored, weight.shape.dims, weight.contracted, self.form, xp)
        return nested(params), nested(buffers)

    def write(self, folder: Path, source: Source, max_shard_bytes: int) -> None:
        """Tensor by tensor; then reads them back.

        Raises:
            ExportError: a tensor on disk that is not what was to be written.
        """
        stored = create_tensors(folder, self.tensors(), max_shard_bytes)
        params = source.cached(_CACHE_BYTES)

        def move(path: str) -> None:
            for name, array in self._arrays(path, source, params).items():
                stored[name].write(array)
                if not equal_bits(stored[name].read(), array):
                    raise ExportError(f"the tensor {name!r} read back differs from what was written")

        in_order = sorted(self.weights, key=lambda path: source.places[path].path if path in source.places else path)
        collections.deque(two_at_once(move, ((path,) for path in in_order)), maxlen=0)

    def _arrays(self, path: str, source: Source, params: StoredItem) -> dict[str, np.ndarray]:
        weight = self.weights[path]
        array = source.buffers.read(path) if path in self.buffers else source.read(params, path)
        if weight.contracted is None:
            return {path: array}
        assert self.form is not None
        values, scales = quantize(array, weight.contracted, self.form)
        return {f"{path}.q": values, f"{path}.scale": scales}

    def described(self) -> dict[str, Any]:
        """For the manifest; `from_description` reads it."""
        return {
            "quantization": dataclasses.asdict(self.form) if self.form else None,
            "buffers": list(self.buffers),
            "weights": {
                path: {"shape": list(w.shape.dims), "dtype": w.shape.dtype.name}
                | ({} if w.contracted is None else {"contracted": list(w.contracted)})
                for path, w in self.weights.items()
            },
        }

    @classmethod
    def from_description(cls, given: Mapping[str, Any]) -> Weights:
        dtypes = {dtype.name: dtype for dtype in DTYPES.values()}
        weights = {
            path: Weight(
                Shape(tuple(w["shape"]), dtypes[w["dtype"]]), tuple(w["contracted"]) if "contracted" in w else None
            )
            for path, w in given["weights"].items()
        }
        form = given["quantization"]
        return cls(weights, tuple(given["buffers"]), Quantization(**form) if form else None)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    return open_tensors(folder, DTYPES | QUANTISED)
