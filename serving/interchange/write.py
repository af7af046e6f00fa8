"""A folder of HF transformers from a checkpoint of ours: weights in shards, config, generation settings, tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from data.image_prompt import ImageMarks
from data.vocabulary import Vocabulary
from model.config import SiglipConfig
from serving.interchange.files import CARRIED, with_text_fields
from serving.interchange.image_processor import processor_documents
from serving.interchange.source import Source
from serving.interchange.tensor_files import Shape, create_tensors
from serving.interchange.tensors import SAME, Entry, their_shape
from serving.interchange.tokenizer_json import FILES as TOKENIZER_FILES
from serving.interchange.tokenizer_json import tokenizer_files

SLACK = 16 << 20  # bytes that the cache of decoded chunks needs beyond one array


def entries_of(source: Source, architecture: Any) -> list[Entry]:
    """One for every tensor. Raises ValueError for a parameter that none holds."""
    entries = list(architecture.entries(source.config))
    left = sorted(set(source.shapes) - {entry.ours for entry in entries})
    if left:
        raise ValueError(
            f"the parameter {left[0]!r} (and {len(left) - 1} others) of models.{source.model} has no place in a "
            f"{architecture.model_type}; use --to orbax"
        )
    for path in source.buffers.shapes.keys() - source.shapes:
        if source.buffers.read(path).any():
            raise ValueError(
                f"the buffer {path!r} of models.{source.model} is not zero, and a {architecture.model_type} has no "
                "place for it; use --to orbax"
            )
    return entries


def write_folder(folder: Path, source: Source, architecture: Any, max_shard_bytes: int) -> None:
    """Writes everything; memory holds a tensor, and the chunk that it is part of where layers share one."""
    shapes = {}
    for entry in entries_of(source, architecture):
        dtype = source.dtype(entry.ours, entry.theirs)
        shapes[entry] = Shape(their_shape(entry, source.shapes[entry.ours]), dtype)
    dtype = np.result_type(*(shape.dtype for shape in shapes.values()))
    _write_documents(folder, source, architecture, dtype.name)
    stored = create_tensors(folder, {entry.theirs: shape for entry, shape in shapes.items()}, max_shard_bytes)
    params = source.cached(source.largest_array + SLACK)

    # Parts of one array together; one after the other, since two writers of a file wait for each other by spinning.
    for entry in sorted(shapes, key=lambda entry: source.places[entry.ours].path):
        if entry.layout is SAME and not entry.index:
            for rows in params.row_blocks(entry.ours):
                stored[entry.theirs].part(rows).write(source.read(params, entry.ours, rows, entry.theirs))
        else:
            part = source.read(params, entry.ours, entry.index, entry.theirs)
            stored[entry.theirs].write(entry.layout.to_theirs(part))


def _write_documents(folder: Path, source: Source, architecture: Any, dtype: str) -> None:
    """What an import kept comes back as it was; the rest is written from what the checkpoint knows."""
    kept = source.checkpoint.path / "source"
    vocabulary, tokens = source.vocabulary, _special_ids(source.vocabulary)
    text: dict[str, Any] = {"vocab_size": vocabulary.size}
    if "pipeline" in source.phase:
        text["max_position_embeddings"] = source.phase["pipeline"]["slots"]  # as long as it was trained for
    config = with_text_fields(architecture, architecture.write_config(source.config), **text, **tokens) | {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "dtype": dtype,
    }
    image = source.config.image
    documents = processor_documents(image) if isinstance(image, SiglipConfig) else {}
    if documents:
        config |= _image_ids(vocabulary)
    documents |= {
        "config.json": config,
        "generation_config.json": {"_from_model_config": True, **tokens} | _without_cache(config),
    }
    if not any((kept / name).is_file() for name in TOKENIZER_FILES):
        documents |= tokenizer_files(vocabulary)
    same = source.model_type == architecture.model_type
    for name in CARRIED:
        if (kept / name).is_file() and (same or name not in ("config.json", "generation_config.json")):
            shutil.copyfile(kept / name, folder / name)
        elif name in documents:
            _write_json(folder / name, documents[name])
    for module in getattr(architecture, "modules", ()):
        shutil.copyfile(module, folder / module.name)
    if same and (kept / "config.json").is_file():
        _update(folder / "config.json", dtype)
    vocabulary.save(folder / "tokenizer.model")


def _update(file: Path, dtype: str) -> None:
    """What a kept config.json says of the weights, where it is no longer so."""
    fields = json.loads(file.read_text())
    now = {"torch_dtype" if "torch_dtype" in fields else "dtype": dtype}
    if "vision_config" in fields:  # its pooling head is not kept, and would be missed
        now["vision_config"] = fields["vision_config"] | {"vision_use_head": False}
    if fields | now != fields:
        _write_json(file, fields | now)


def _without_cache(config: dict[str, Any]) -> dict[str, bool]:
    return {} if config.get("use_cache", True) else {"use_cache": False}


def _image_ids(vocabulary: Vocabulary) -> dict[str, int | None]:
    """Under the names that a `gemma3` has for them."""
    marks = ImageMarks.of(vocabulary)
    before, after = ([vocabulary.piece_id(piece) for piece in pieces] for pieces in (marks.before, marks.after))
    # The ids that stand in a picture's slots must not occur in text, so one past the end is right where all do.
    slots = vocabulary.image_id if vocabulary.has_symbols else vocabulary.text_size
    ids = {"boi_token_index": before, "eoi_token_index": after, "image_token_index": [slots]}
    return {name: found[0] if found else None for name, found in ids.items()}


def _special_ids(vocabulary: Vocabulary) -> dict[str, int]:
    names = {"bos_token_id": vocabulary.bos_id, "eos_token_id": vocabulary.eos_id, "pad_token_id": vocabulary.pad_id}
    return {name: int(value) for name, value in names.items()}


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
