"""What a checkpoint holds besides arrays, as bytes."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import jax
import numpy as np

from data.batch import Batch
from train.optimizer import name_of


@dataclasses.dataclass(frozen=True)
class Assets:
    """What travels unchanged in every checkpoint of a phase."""

    phase: str
    config: dict[str, Any]
    vocabulary: bytes  # the SentencePiece model
    statistics: Any  # normalisation, JSON-able
    transforms: Any  # JSON-able description from which they are rebuilt
    example_batch: Batch

    def files(self) -> dict[str, bytes]:
        return {
            "config.json": as_json(self.config),
            "statistics.json": as_json(self.statistics),
            "transforms.json": as_json(self.transforms),
            "tokenizer.model": self.vocabulary,
            "example_batch.npz": _batch_to_npz(self.example_batch),
        }


def as_json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _batch_to_npz(batch: Batch) -> bytes:
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    arrays: dict[str, Any] = {name_of(path): np.asarray(leaf) for path, leaf in leaves}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def batch_from_npz(content: bytes) -> Batch:
    fields: dict[str, Any] = {"media": {}, "values": {}}
    with np.load(io.BytesIO(content)) as arrays:
        for name in arrays.files:
            group, _, key = name.partition("/")
            if key:
                fields[group][key] = arrays[name]
            else:
                fields[name] = arrays[name]
    return Batch(**fields)
