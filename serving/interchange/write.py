"""A folder of HF transformers from a checkpoint of ours: weights in shards, config, generation settings, tokenizer."""

from __future__ import annotations

import collections
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from data.vocabulary import Vocabulary
from serving.interchange.files import CARRIED
from serving.interchange.source import Source
from serving.interchange.tensor_files import Shape, create_tensors, two_at_once
from serving.interchange.tensors import Entry, their_shape

_SLACK = 16 << 20  # bytes that the cache of decoded chunks needs beyond one array


def entries_of(source: Source, architecture: Any) -> list[Entry]:
    """One for every tensor. Raises ValueError for a parameter that none holds."""
    entries = list(architecture.entries(source.config))
    left = sorted(set(source.shapes) - {entry.ours for entry in entries})
    if left:
        raise ValueError(
            f"the parameter {left[0]!r} (and {len(left) - 1} others) of models.{source.model} has no place in a "
            f"{architecture.model_type}; use --to orbax"
        )
    return entries


def write_folder(folder: Path, source: Source, architecture: Any, max_shard_bytes: int) -> None:
    """Writes everything; memory holds two tensors, and the chunk that they are part of where layers share one."""
    shapes = {}
    for entry in entries_of(source, architecture):
        dtype = source.dtype(entry.ours, entry.theirs)
        shapes[entry] = Shape(their_shape(entry, source.shapes[entry.ours]), dtype)
    stored = create_tensors(folder, {entry.theirs: shape for entry, shape in shapes.items()}, max_shard_bytes)
    params = source.cached(source.largest_array + _SLACK)

    def move(entry: Entry) -> None:
        part = source.read(params, entry.ours, entry.index, entry.theirs)
        stored[entry.theirs].write(entry.layout.to_theirs(part))

    in_order = sorted(shapes, key=lambda entry: source.places[entry.ours].path)  # parts of one array together
    collections.deque(two_at_once(move, ((entry,) for entry in in_order)), maxlen=0)
    dtype = np.result_type(*(shape.dtype for shape in shapes.values()))
    _write_documents(folder, source, architecture, dtype.name)


def _write_documents(folder: Path, source: Source, architecture: Any, dtype: str) -> None:
    """What an import kept comes back as it was; the rest is written from what the checkpoint knows."""
    kept = source.checkpoint.path / "source"
    vocabulary, tokens = source.vocabulary, _special_ids(source.vocabulary)
    config = architecture.write_config(source.config) | {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "vocab_size": vocabulary.size,
        "dtype": dtype,
        **tokens,
    }
    if "pipeline" in source.phase:
        config["max_position_embeddings"] = source.phase["pipeline"]["slots"]  # as long as it was trained for
    documents = {
        "config.json": config,
        "generation_config.json": {"_from_model_config": True, **tokens},
        "tokenizer_config.json": _tokenizer_config(vocabulary),
    }
    for name in CARRIED:
        if (kept / name).is_file():
            shutil.copyfile(kept / name, folder / name)
        elif name in documents:
            _write_json(folder / name, documents[name])
    if (kept / "config.json").is_file():
        _update_dtype(folder / "config.json", dtype)
    vocabulary.save(folder / "tokenizer.model")


def _update_dtype(file: Path, dtype: str) -> None:
    fields = json.loads(file.read_text())
    named = "torch_dtype" if "torch_dtype" in fields else "dtype"
    if fields.get(named) != dtype:
        _write_json(file, fields | {named: dtype})


def _special_ids(vocabulary: Vocabulary) -> dict[str, int]:
    names = {"bos_token_id": vocabulary.bos_id, "eos_token_id": vocabulary.eos_id, "pad_token_id": vocabulary.pad_id}
    return {name: int(value) for name, value in names.items()}


def _tokenizer_config(vocabulary: Vocabulary) -> dict[str, Any]:
    """Read as a Llama tokenizer, which is what transformers calls any byte-pair SentencePiece model."""
    return {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": vocabulary.piece(vocabulary.bos_id),
        "eos_token": vocabulary.piece(vocabulary.eos_id),
        "unk_token": vocabulary.piece(vocabulary.unk_id),
        "pad_token": vocabulary.piece(vocabulary.pad_id),
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": vocabulary.adds_space,
        "legacy": False,
        "clean_up_tokenization_spaces": False,
    }


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
