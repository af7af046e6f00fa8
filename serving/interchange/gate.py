"""The export gate: files are read back and must hold the same tensors and compute the same logits."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from data.batch import Batch
from data.elements import Document, Image, Tokens
from data.layout import RowShape, collate, lay_out
from serving.interchange.copying import blocks, two_at_once
from serving.interchange.expressible import unequal
from serving.interchange.files import ModelFolder
from serving.interchange.layerwise import Layerwise, as_compared
from serving.interchange.source import Source
from serving.interchange.stacking import StoredItem, layer_of
from serving.interchange.tensor_files import StoredTensor
from serving.interchange.tensors import Entry, read_part

TOLERANCE = 1e-4  # of logits in float32, relative to the largest where that is above 1
BATCH = (2, 24)  # rows and slots of text
_STRIP = 1 << 20  # bytes compared at once, one of the two maybe transposed
CACHE_BYTES = 1 << 30  # of decoded chunks that are kept while the layers are read in order


class ExportError(RuntimeError):
    """Files that were written but do not hold the model; the message names the tensor or field that differs."""


def installed_reference() -> str | None:
    """This interpreter, if it has the reference library."""
    return sys.executable if util.find_spec("torch") and util.find_spec("transformers") else None


class Gate:
    """Compares a written folder with its source, one layer in memory at a time."""

    def __init__(self, folder: Path, source: Source):
        """Raises ExportError for a config or a set of tensors that is not the source's."""
        self.folder, self.source = folder, source
        try:
            self.written = ModelFolder(folder)
            tensors = self.written.tensors(source.shapes)
        except ValueError as error:
            raise ExportError(f"what was written cannot be read: {error}") from error
        lost = unequal(source.config, self.written.config)
        if lost:
            raise ExportError(f"config.json lost something: {'; '.join(lost)}")
        self._layers: dict[int | None, dict[Entry, StoredTensor]] = {}
        for entry, tensor in tensors.items():
            self._layers.setdefault(layer_of(entry.ours), {})[entry] = tensor
        self.batch = _example(source, self.written.fields.get("image_token_index"))

    def check(self, reference: str | None) -> float:
        """`reference`: a Python interpreter that has torch and transformers, or None for our reader alone.

        Returns the largest difference between logits. Raises ExportError.
        """
        ours, read_back, hidden = self._both_logits()
        self._compare("this stack's reader", ours, read_back)
        if reference is None:
            return float(np.abs(ours - read_back).max())
        with tempfile.TemporaryDirectory() as scratch:
            theirs = _ask(reference, self.folder, self.batch, Path(scratch))
        for problem, names in (("does not find", theirs["missing"]), ("reads another value of", theirs["other"])):
            if len(names):
                raise ExportError(f"transformers {problem} the tensor {str(names[0])!r} (and {len(names) - 1} others)")
        self._compare("transformers", ours, theirs["logits"], _first_layer_apart(hidden, theirs["hidden"]))
        return float(np.abs(ours - theirs["logits"]).max())

    def _both_logits(self) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Logits by the source's config and by the one read back, and what entered each layer by the source's."""
        params, buffers = self.source.cached(CACHE_BYTES), self.source.buffers
        # One pass is enough where the configs are not only alike but the same.
        configs = dict.fromkeys(as_compared(config) for config in (self.source.config, self.written.config))
        runs = [Layerwise(config, self.source.vocabulary.size, self.batch) for config in configs]
        outside, hidden = self._read_equal(None, params), []
        for run in runs:
            run.begin(outside)
        for i in range(self.source.config.num_layers):
            hidden.append(np.asarray(runs[0].hidden_BTD))
            layer = self._read_equal(i, params)
            own = [path for path in buffers.shapes if layer_of(path) == i]
            kept = {path: layer.pop(path) if path in layer else buffers.read(path) for path in own}
            for run in runs:
                run.layer(i, _below(layer), _below(kept))
        logits = [run.logits(outside) for run in runs]
        return logits[0], logits[-1], hidden

    def _read_equal(self, layer: int | None, params: StoredItem) -> dict[str, np.ndarray]:
        """The parameters of a layer as they are on disk. Raises ExportError for one that differs in any bit."""

        def read(entry: Entry, tensor: StoredTensor) -> np.ndarray:
            part = read_part(entry, tensor.read(), self.source.shapes[entry.ours])
            for rows in [()] if entry.index else params.row_blocks(entry.ours):
                stored = self.source.read(params, entry.ours, (*entry.index, *rows), entry.theirs)
                if not equal_bits(part[rows], stored):
                    raise ExportError(f"the tensor {entry.theirs!r} in {tensor.file.name} differs from {entry.ours!r}")
            return part

        arrays: dict[str, np.ndarray] = {}
        tensors = self._layers.get(layer, {})
        for entry, part in zip(tensors, two_at_once(read, tensors.items()), strict=True):
            if not entry.index:
                arrays[entry.ours] = part
            else:
                whole = np.empty(self.source.shapes[entry.ours], part.dtype)
                arrays.setdefault(entry.ours, whole)[entry.index] = part
        return arrays

    def _compare(self, reader: str, ours: np.ndarray, theirs: np.ndarray, hint: str = "") -> None:
        apart, bound = np.abs(ours - theirs).max(), TOLERANCE * max(1.0, np.abs(ours).max())
        if not apart <= bound:
            raise ExportError(
                f"logits of what {reader} reads back differ by {apart:.3g}, allowed is {bound:.3g}; every tensor is as "
                f"it should be, so the reader computes something else with them{hint}"
            )


def equal_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """So that NaN equals itself and -0 is not 0."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    bits = f"u{a.dtype.itemsize}"
    strips = blocks(a.shape, a.dtype.itemsize, _STRIP)
    return all(np.array_equal(a[strip].view(bits), b[strip].view(bits)) for strip in strips)


def _below(paths: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By paths below the layer."""
    return {path.split("/", 3)[3]: array for path, array in paths.items()}


def _example(source: Source, image_id: int | None) -> Batch:
    """Random text without `image_id`; where the model sees pictures, one of noise in the first row."""
    rng, image = np.random.default_rng(0), source.config.image
    T = BATCH[1] + (image.num_slots if image else 0)
    shape = RowShape(T, image_id=source.vocabulary.image_id if image else 0)

    def text(num: int) -> Tokens:
        ids = rng.integers(0, source.vocabulary.text_size, num).astype(np.int32)
        return Tokens(np.where(ids == image_id, 0, ids), np.zeros(num, np.float32))

    first: Document = (text(T),)
    if image:
        shape = dataclasses.replace(shape, images=1, image_size=(image.height, image.width))
        noise = rng.integers(0, 256, (image.height, image.width, 3), np.uint8)
        first = (text(8), Image(noise, image.num_slots), text(T - image.num_slots - 8))
    return collate([lay_out([document], shape) for document in (first, *((text(T),) for _ in range(BATCH[0] - 1)))])


def _ask(python: str, folder: Path, batch: Batch, scratch: Path) -> Mapping[str, Any]:
    """What the reference library reads and computes, in a process of its own."""
    question = {"input_ids": batch.tokens}
    if batch.media:
        pixels_BHWc = batch.media["image"][:, 0].astype(np.float32) / 127.5 - 1
        seen_B = batch.media["image_slot"][:, 0] >= 0
        question["pixel_values"] = pixels_BHWc[seen_B].transpose(0, 3, 1, 2)
        question["token_type_ids"] = (batch.span_ids > 0).astype(np.int32)
    np.savez(scratch / "question.npz", **question)
    script = Path(__file__).with_name("reference.py")
    command = [python, str(script), str(folder), str(scratch / "question.npz"), str(scratch / "answer.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExportError(f"{python} cannot read the export with transformers:\n{done.stderr.strip()[-2000:]}")
    with np.load(scratch / "answer.npz") as answer:
        return {name: answer[name] for name in answer.files}


def _first_layer_apart(ours: Iterable[np.ndarray], theirs_LBTD: np.ndarray) -> str:
    """Where two passes part, as a remark; the inputs of the layers are compared."""
    for i, (mine, other) in enumerate(zip(ours, theirs_LBTD, strict=False)):
        if mine.shape != other.shape or not np.abs(mine - other).max() <= TOLERANCE * max(1.0, np.abs(mine).max()):
            where = f"the tensors model.layers.{i - 1}" if i else "'model.embed_tokens.weight'"
            return f". They part at {where}"
    return ""
