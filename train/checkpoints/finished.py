"""Finished checkpoints as readers see them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from data.batch import Batch
from train.checkpoints.checksums import problems
from train.checkpoints.contents import as_json, batch_from_npz

_READ_AT_ONCE = 64 * 2**20  # bytes of arrays that one process reads side by side


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint, readable without the config that made it. Arrays are read when first asked for."""

    path: Path
    meta: dict[str, Any]
    config: dict[str, Any]
    statistics: Any
    transforms: Any
    vocabulary_bytes: bytes

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Opens `<workdir>/<phase>/checkpoints/<step>`, or the latest step of a phase's folder or its `checkpoints`.

        Raises ValueError if there is no finished checkpoint.
        """
        folder = _find(Path(path).resolve())
        read = lambda name: json.loads((folder / "files" / name).read_text())  # noqa: E731
        return cls(
            path=folder,
            meta=read("meta.json"),
            config=read("config.json"),
            statistics=read("statistics.json"),
            transforms=read("transforms.json"),
            vocabulary_bytes=(folder / "files" / "tokenizer.model").read_bytes(),
        )

    @property
    def step(self) -> int:
        return self.meta["step"]

    @property
    def phase(self) -> str:
        return self.meta["phase"]

    @functools.cached_property
    def params(self) -> Any:
        """Nested dictionary of NumPy arrays."""
        return self._read("params")

    @functools.cached_property
    def ema(self) -> Any:
        """Averaged parameters, or None if the phase keeps none."""
        return self._read("ema")

    @functools.cached_property
    def buffers(self) -> Any:
        return self._read("buffers") or {}

    @functools.cached_property
    def training(self) -> Any:
        """What only training needs: the optimiser, the guard against spikes, the step."""
        return self._read("training")

    @property
    def weights(self) -> Any:
        """The parameters to use: the averaged ones where there are any."""
        return self.params if self.ema is None else self.ema

    @functools.cached_property
    def example_batch(self) -> Batch:
        return batch_from_npz((self.path / "files" / "example_batch.npz").read_bytes())

    def read_like(self, item: str, like: Any) -> Any:
        """`params`, `ema` or `buffers` as a tree of jax.Array with the shapes, dtypes and shardings of `like`."""
        self.refuse_broken(item)
        return read_item(self.path / item, like)

    def refuse_broken(self, item: str) -> None:
        """Raises ValueError where files below `item` are not those that were written."""
        found = problems(self.path, item)
        if found:
            raise ValueError(
                f"{found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}; the checkpoint is broken: copy "
                f"it again, or take another one of {self.path.parent}"
            )

    def _read(self, item: str) -> Any:
        if not (self.path / item).is_dir():
            return None
        self.refuse_broken(item)
        reader = ocp.PyTreeCheckpointHandler()
        tree = reader.metadata(epath.Path(self.path / item)).tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(epath.Path(self.path / item), args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def read_item(folder: Path, like: Any) -> Any:
    """The arrays below `folder` as `like` says; each process reads its shards, few at a time so that memory lasts."""
    like = jax.tree.map(_abstract, like)
    at_once = max(_READ_AT_ONCE, *(_shard_bytes(x) + 1 for x in jax.tree.leaves(like)))
    handler = ocp.StandardCheckpointHandler(restore_concurrent_gb=at_once / 10**9)  # pyright: ignore[reportArgumentType]
    return handler.restore(epath.Path(folder), args=ocp.args.StandardRestore(like))


def _shard_bytes(x: jax.ShapeDtypeStruct) -> int:
    shape = x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
    return math.prod(shape) * x.dtype.itemsize


def refuse_other_config(stored: Checkpoint, config: dict[str, Any], may_differ: Iterable[str]) -> None:
    """Raises ValueError naming every differing field, unless it lies below one of the dotted paths in `may_differ`."""
    allowed = tuple(may_differ)
    old, new = _flatten(stored.config), _flatten(json.loads(as_json(config)))
    differing = [
        f"{field}: {old.get(field, 'absent')!r} in the checkpoint, {new.get(field, 'absent')!r} now"
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field) and not any(_is_below(field, path) for path in allowed)
    ]
    if differing:
        raise ValueError(
            f"{stored.path} was made by another config; these fields differ:\n  " + "\n  ".join(differing) + "\n"
            "Restore them, or start again in another --workdir."
        )


def refuse_other_tokenizer(stored: Checkpoint, vocabulary: bytes) -> None:
    """Raises ValueError if the checkpoint's token ids mean something else."""
    old, new = stored.meta["tokenizer_sha256"], hashlib.sha256(vocabulary).hexdigest()
    if old != new:
        raise ValueError(
            f"{stored.path} was trained with tokenizer {old[:12]} but the config's tokenizer is {new[:12]} (SHA-256); "
            "set config.vocabulary to the tokenizer of the checkpoint (its files/tokenizer.model), or train anew."
        )


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))


def _find(path: Path) -> Path:
    for root in (path, path / "checkpoints"):
        if (root / "files" / "meta.json").is_file():
            return root
        steps = [int(p.name) for p in root.iterdir() if p.name.isdigit()] if root.is_dir() else []
        if steps:
            return root / str(max(steps))
    raise ValueError(
        f"{path} holds no finished checkpoint; give a folder <workdir>/<phase>, its `checkpoints` or one step in it"
    )


def _flatten(tree: Any, where: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {where: tree}
    below = ((f"{where}.{key}" if where else key, value) for key, value in tree.items())
    return {name: leaf for path, value in below for name, leaf in _flatten(value, path).items()}


def _is_below(field: str, path: str) -> bool:
    return field == path or field.startswith(path + ".")
