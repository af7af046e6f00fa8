"""Parameters by their paths layer by layer, wherever a checkpoint keeps them: alone or stacked over the repeats."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from model.config import ModelConfig
from model.model import create, split
from serving.interchange.array_store import ArrayStore
from serving.interchange.tensor_files import Shape
from serving.interchange.tensors import Index

# Layer by layer is the form of `scan=False`: every layer under `stack/remainder`.
_STACKED, _ALONE = "stack/repeated/", "stack/remainder/"


@dataclasses.dataclass(frozen=True)
class Place:
    """The array of a checkpoint and, where it is stacked, the entry of its first dim."""

    path: str
    index: tuple[int, ...] = ()


def places(stored: Iterable[str], config: ModelConfig) -> dict[str, Place]:
    """Where each parameter of the model layer by layer lies among the `stored` paths."""
    scanned = config.num_repeats * config.period
    found: dict[str, Place] = {}
    for path in stored:
        if path.startswith(_STACKED):
            position, _, rest = path.removeprefix(_STACKED).partition("/")
            for i in range(config.num_repeats):
                found[f"{_ALONE}{i * config.period + int(position)}/{rest}"] = Place(path, (i,))
        elif path.startswith(_ALONE):
            position, _, rest = path.removeprefix(_ALONE).partition("/")
            found[f"{_ALONE}{scanned + int(position)}/{rest}"] = Place(path)
        else:
            found[path] = Place(path)
    return found


def layer_of(path: str) -> int | None:
    """The layer that a path layer by layer belongs to, or None for what is of the whole model."""
    return int(path.split("/")[2]) if path.startswith(_ALONE) else None


def abstract_states(config: ModelConfig, vocab_size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shapes of the parameters and of the buffers by path, in the form that `config.scan` asks for."""
    _, params, buffers = split(jax.eval_shape(lambda: create(config, vocab_size, 0)))
    return flat(params), flat(buffers)


def flat(tree: Any, where: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries by their paths, joined by `/`."""
    if not isinstance(tree, dict):
        return {where: tree}
    below = ((f"{where}/{key}" if where else key, value) for key, value in tree.items())
    return {path: leaf for place, value in below for path, leaf in flat(value, place).items()}


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *above, name = path.split("/")
        node = tree
        for key in above:
            node = node.setdefault(key, {})
        node[name] = leaf
    return tree


class StoredItem:
    """An item of a checkpoint by paths layer by layer."""

    def __init__(self, folder: Path, config: ModelConfig, *, also: Path | None = None, cache_bytes: int = 0):
        """An item that is not there holds nothing: Orbax stores no empty tree. also: a second item, of other paths.

        shapes, places: by path layer by layer. stored: shapes of the arrays by their own paths.
        """
        items = [item for item in (folder, also) if item is not None and item.is_dir()]
        stores = [ArrayStore.open(item, cache_bytes=cache_bytes) for item in items]
        self._store = ArrayStore({path: array for store in stores for path, array in store.arrays.items()})
        self.places = places(self._store.arrays, config)
        self.shapes = {path: self._shape(place) for path, place in self.places.items()}
        self.stored = {path: self._store.shape(path) for path in self._store.arrays}

    @property
    def largest_array(self) -> int:
        """Bytes."""
        return max(shape.num_bytes for shape in self.stored.values())

    def row_blocks(self, path: str) -> list[tuple[slice, ...]]:
        """Parts by the first dim that are stored apart; reading one after the other takes the memory of one."""
        place = self.places[path]
        return self._store.row_blocks(place.path, len(place.index))

    def read(self, path: str, index: Index = ()) -> np.ndarray:
        place = self.places[path]
        return self._store.read(place.path, (*place.index, *index))

    def _shape(self, place: Place) -> Shape:
        whole = self._store.shape(place.path)
        return Shape(whole.dims[len(place.index) :], whole.dtype)
