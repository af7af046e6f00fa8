"""What an export reads: the weights of a checkpoint by their paths layer by layer, in the dtype that is written."""

from __future__ import annotations

from typing import Any

import numpy as np

from configs.schema import parse
from data.vocabulary import Vocabulary
from model.config import ModelConfig
from serving.interchange.stacking import StoredItem
from serving.interchange.tensor_files import DTYPES, Shape
from serving.interchange.tensors import Index
from train.checkpoint import Checkpoint


class Source:
    """The weights to use of a checkpoint (averaged ones where there are any) and what they mean."""

    def __init__(self, checkpoint: Checkpoint, dtype: str | None = None, *, with_buffers: bool = False):
        """`dtype`: of every parameter that is written; None: as stored. with_buffers: they are written as well.

        Raises:
            ValueError: a dtype that is not written.
        """
        names = [known.name for known in DTYPES.values()]
        if dtype is not None and dtype not in names:
            raise ValueError(f"--dtype is {dtype!r}; allowed: {', '.join(names)}")
        self.checkpoint, self._dtype = checkpoint, None if dtype is None else _dtype(dtype)
        self.phase: dict[str, Any] = checkpoint.config["phases"][checkpoint.phase]
        self.model = self.phase["model"]
        self.config = parse(ModelConfig, checkpoint.config["models"][self.model], f"models.{self.model}")
        self.vocabulary = Vocabulary.from_bytes(checkpoint.vocabulary_bytes)
        self._folder = checkpoint.path / ("ema" if (checkpoint.path / "ema").is_dir() else "params")
        self.buffers = StoredItem(checkpoint.path / "buffers", self.config)
        self._also = checkpoint.path / "buffers" if with_buffers else None
        self._params = params = StoredItem(self._folder, self.config, also=self._also)
        self.shapes = {path: shape.dims for path, shape in params.shapes.items()}
        self.stored, self.places, self.largest_array = params.stored, params.places, params.largest_array
        # Of the model that was imported, "" for one of ours.
        self.model_type: str = checkpoint.meta.get("source", {}).get("model_type", "")
        self._known_dtypes: dict[str, str] = checkpoint.meta.get("source", {}).get("dtypes", {})

    def cached(self, num_bytes: int) -> StoredItem:
        """What is written, with `num_bytes` of what was decoded last kept; for reading many parts of large chunks."""
        return StoredItem(self._folder, self.config, also=self._also, cache_bytes=num_bytes)

    def dtype(self, path: str, tensor: str = "") -> np.dtype:
        """Of a parameter; of one tensor in it where the import recorded another."""
        if self._dtype is not None and path not in self.buffers.shapes:
            return self._dtype
        known = self._known_dtypes.get(tensor)
        return self._params.shapes[path].dtype if known is None else _dtype(known)

    def read(self, item: StoredItem, path: str, index: Index = (), tensor: str = "") -> np.ndarray:
        return item.read(path, index).astype(self.dtype(path, tensor), copy=False)

    def shape(self, path: str) -> Shape:
        return Shape(self.shapes[path], self.dtype(path))


def _dtype(name: str) -> np.dtype:
    return next(dtype for dtype in DTYPES.values() if dtype.name == name)
