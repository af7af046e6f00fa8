"""A model of HF transformers as a checkpoint of this stack, tensor by tensor and bit for bit.

    python -m serving.import_hf PATH --out DIR                  # a folder as `save_pretrained` writes it
    python -m serving.generate DIR "Once upon a time"
    python -m train --config C ... --config.phases.P.init path:DIR --config.vocabulary.path DIR/files/tokenizer.model

DIR holds `params`, `buffers` and `files` like any checkpoint (see train/checkpoint.py); `files/config.json` has the
model's section, `models.imported`, to train on with. `source` keeps what else the folder had in small files, so that an
export gives it back. Parameters keep the dtype that they came in.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from data.batch import Batch
from data.vocabulary import Vocabulary
from data.whole import new_folder
from serving.interchange.array_store import BLOCK_BYTES, ArrayStore
from serving.interchange.copying import block_rows, two_at_once
from serving.interchange.files import CARRIED, ModelFolder
from serving.interchange.stacking import Place, abstract_states, places
from serving.interchange.tensor_files import Shape, StoredTensor
from serving.interchange.tensors import Entry, part_shape, read_part
from train.checkpoint import Assets, Checkpoint

NAME = "imported"  # of the phase and the model in the checkpoint's config


def import_hf(path: str | Path, out: str | Path, *, tokenizer: str | Path | None = None) -> Checkpoint:
    """Writes the checkpoint `out`, or nothing at all.

    tokenizer: a SentencePiece model, where the folder has no `tokenizer.model`.

    Raises:
        ValueError: a model that this stack cannot express, by the field's name; a tensor that is missing, unknown or
            of another shape, by its name; no tokenizer, or one with more pieces than the model has rows; `out` exists.
    """
    folder = ModelFolder(path)
    vocabulary = _vocabulary(folder, tokenizer)
    params, buffers = abstract_states(folder.config, folder.vocab_size)
    states = params | buffers
    where = places(states, folder.config)
    tensors = folder.tensors({path: states[place.path].shape[len(place.index) :] for path, place in where.items()})
    shapes = {path: leaf.shape for path, leaf in states.items()}
    kept = {entry: tensor for entry, tensor in tensors.items() if where[entry.ours].path in buffers}
    with new_folder(out) as aside:
        learned = {entry: tensor for entry, tensor in tensors.items() if entry not in kept}
        dtypes = _write_params(aside / "params", learned, where, shapes)
        if kept:
            _write_params(aside / "buffers", kept, where, shapes)
        elif buffers:
            _write_zeros(aside / "buffers", buffers)
        (aside / "files").mkdir()
        for name, content in _files(folder, vocabulary, dtypes).items():
            (aside / "files" / name).write_bytes(content)
        (aside / "source").mkdir()
        for name in CARRIED:
            if (folder.path / name).is_file():
                shutil.copyfile(folder.path / name, aside / "source" / name)
    return Checkpoint.open(out)


def _vocabulary(folder: ModelFolder, tokenizer: str | Path | None) -> Vocabulary:
    file = Path(tokenizer) if tokenizer is not None else folder.path / "tokenizer.model"
    if not file.is_file():
        given = f"--tokenizer {file} is no file" if tokenizer is not None else f"{folder.path} has no tokenizer.model"
        raise ValueError(f"{given}; give --tokenizer FILE, the SentencePiece model that the weights were trained with")
    pieces = Vocabulary(file.read_bytes())
    if pieces.text_size > folder.vocab_size:
        raise ValueError(
            f"{file} has {pieces.text_size} pieces, but config.json has vocab_size {folder.vocab_size}; it is the "
            "tokenizer of another model, give the right one with --tokenizer FILE"
        )
    return Vocabulary(pieces.model, num_unused=folder.vocab_size - pieces.text_size)


def _write_params(
    folder: Path,
    tensors: Mapping[Entry, StoredTensor],
    where: Mapping[str, Place],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, str]:
    """Returns the dtypes of the tensors that are kept in a wider one, since layers of one array differ in theirs."""
    arrays: dict[str, Shape] = {}
    chunks: dict[str, tuple[int, ...]] = {}
    for entry, tensor in tensors.items():
        place = where[entry.ours]
        before = arrays.get(place.path, Shape((), tensor.shape.dtype))
        dtype = np.result_type(before.dtype, tensor.shape.dtype)
        arrays[place.path] = Shape(shapes[place.path], dtype)
        chunks[place.path] = _chunk(entry, place, shapes[place.path], dtype.itemsize)
    store = ArrayStore.create(folder, arrays, chunks)

    def move(entry: Entry, tensor: StoredTensor) -> None:
        place = where[entry.ours]
        array = arrays[place.path]
        part = read_part(entry, tensor.read(), array.dims[len(place.index) :])
        store.write(place.path, (*place.index, *entry.index), part.astype(array.dtype, copy=False))

    collections.deque(two_at_once(move, tensors.items()), maxlen=0)
    own = {entry.theirs: tensor.shape.dtype for entry, tensor in tensors.items()}
    kept = {entry.theirs: arrays[where[entry.ours].path].dtype for entry in tensors}
    return {name: dtype.name for name, dtype in own.items() if dtype != kept[name]}


def _chunk(entry: Entry, place: Place, dims: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """What is stored as one file: a block of the rows of one tensor, so that no chunk is written twice."""
    own = dims[len(place.index) :]
    part = part_shape(entry, own)
    index = (*entry.index, *(slice(None) for _ in own[len(entry.index) :]))
    chunk = [1 if isinstance(i, int) else len(range(*i.indices(n))) for i, n in zip(index, own, strict=True)]
    if part:
        chunk[next(k for k, i in enumerate(index) if isinstance(i, slice))] = block_rows(part, itemsize, BLOCK_BYTES)
    return (*(1 for _ in place.index), *chunk)


def _write_zeros(folder: Path, buffers: Mapping[str, Any]) -> None:
    shapes = {path: Shape(leaf.shape, np.dtype(leaf.dtype)) for path, leaf in buffers.items()}
    store = ArrayStore.create(folder, shapes, {path: shape.dims for path, shape in shapes.items()})
    for path, shape in shapes.items():
        store.write(path, (), np.zeros(shape.dims, shape.dtype))


def _files(folder: ModelFolder, vocabulary: Vocabulary, dtypes: dict[str, str]) -> dict[str, bytes]:
    config = {
        "seed": 0,
        "vocabulary": {"path": "files/tokenizer.model"},
        "models": {NAME: dataclasses.asdict(folder.config)},
        "phases": {NAME: {"model": NAME}},
    }
    zeros_BT = np.zeros((1, 1), np.int32)
    example = Batch(zeros_BT, zeros_BT, zeros_BT, zeros_BT, zeros_BT.astype(np.float32), zeros_BT, {}, {})
    meta = {
        "step": 0,
        "next_row": 0,
        "phase": NAME,
        "progress": {},
        "tokenizer_sha256": hashlib.sha256(vocabulary.serialized).hexdigest(),
        "versions": {name: metadata.version(name) for name in ("jax", "numpy", "tensorstore")},
        "source": {"model_type": folder.architecture.model_type, "dtypes": dtypes},
    }
    assets = Assets(NAME, config, vocabulary.serialized, statistics={}, transforms={}, example_batch=example)
    return assets.files() | {"meta.json": json.dumps(meta, indent=1, sort_keys=True).encode()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m serving.import_hf", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", help="a folder with config.json and safetensors, one file or shards with their index")
    parser.add_argument("--out", required=True, help="the folder to write")
    parser.add_argument("--tokenizer", help="a SentencePiece model; default: tokenizer.model in the folder")
    options = parser.parse_args(arguments)
    try:
        checkpoint = import_hf(options.path, options.out, tokenizer=options.tokenizer)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    config = checkpoint.config["models"][NAME]
    print(f"{options.out}: {checkpoint.meta['source']['model_type']}, {config['num_layers']} layers")


if __name__ == "__main__":
    main()
