"""The arrays of a checkpoint one at a time, for checkpoints that are larger than the memory of a host."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from train.checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array that stays on disk; `np.asarray` reads it."""

    folder: Path
    keys: tuple[str, ...]  # where it is in the item's tree
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> np.ndarray:
        tree: Any = np.empty(0)
        args: Any = ocp.RestoreArgs(restore_type=np.ndarray)
        for key in reversed(self.keys):
            tree, args = {key: tree}, {key: args}
        restore = ocp.args.PyTreeRestore(item=tree, restore_args=args, partial_restore=True)
        found = ocp.PyTreeCheckpointHandler().restore(epath.Path(self.folder), args=restore)
        for key in self.keys:
            found = found[key]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.read() if dtype is None else self.read().astype(dtype, copy=False)


def stored(checkpoint: Checkpoint, item: str) -> Any:
    """`buffers`, or `weights` (the averaged parameters where there are any), as a tree of `StoredArray`.

    An item that is not there is an empty tree, as Orbax stores none. Raises ValueError where files are broken.
    """
    if item == "weights":
        item = "ema" if (checkpoint.path / "ema").is_dir() else "params"
    folder = checkpoint.path / item
    if not folder.is_dir():
        return {}
    checkpoint.refuse_broken(item)
    tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree

    def place(path: Any, leaf: Any) -> StoredArray:
        return StoredArray(folder, tuple(key.key for key in path), tuple(leaf.shape), np.dtype(leaf.dtype))

    return jax.tree_util.tree_map_with_path(place, tree)
