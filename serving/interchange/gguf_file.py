"""One GGUF file for llama.cpp: settings, vocabulary and weights, written tensor by tensor and read back.

What differs from the tensors of HF transformers: names (the `gguf` library's table), norms that multiply by 1 + scale
hold the sum, and the frequencies of a "proportional" RoPE are a tensor.
"""

from __future__ import annotations

import json
import math
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from data.whole import new_file
from serving.interchange.expressible import architecture_for
from serving.interchange.gate import ExportError, equal_bits
from serving.interchange.gguf_keys import add_model, add_vocabulary
from serving.interchange.source import Source
from serving.interchange.stacking import StoredItem
from serving.interchange.tensors import Entry, their_shape
from serving.interchange.write import SLACK, entries_of
from train.checkpoint import Checkpoint

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
_ARCHITECTURES = {"gemma3_text": "gemma3", "gemma4_text": "gemma4"}
# What the library's table lacks or names without the ending that llama.cpp reads; below `model.layers.i.`
_NAMES = {
    "layer_scalar": "layer_output_scale.weight",
    "router.scale": "ffn_gate_inp.scale",
    "router.per_expert_scale": "ffn_down_exps.scale",
    "experts.gate_up_proj": "ffn_gate_up_exps.weight",
    "experts.down_proj": "ffn_down_exps.weight",
}
_DEFAULT_CONTEXT = 131_072  # of both architectures, where a config.json leaves it out
_FREQUENCIES = "rope_freqs.weight"
_STANDS_STILL = 1e30  # divides the frequency of a pair that does not turn


def export_gguf(checkpoint: Checkpoint, out: str | Path, *, dtype: str | None = None) -> int:
    """Writes the file `out`, or nothing at all; returns the number of its tensors.

    dtype: of the matrices, among `TYPES`; else as stored. Vectors, scalars and routers are always float32.

    Raises:
        ValueError: a model, or a vocabulary, that llama.cpp does not express, by the field's name; no `gguf` library.
        ExportError: a tensor that reads back as another, by its name.
    """
    if util.find_spec("gguf") is None:
        raise ValueError("--to gguf needs the library gguf, which is not installed; run `pip install gguf`")
    if dtype is not None and dtype not in TYPES:
        raise ValueError(f"--dtype is {dtype!r}; allowed with --to gguf: {', '.join(TYPES)}")
    import gguf

    source = Source(checkpoint)
    imported_from = checkpoint.meta.get("source", {}).get("model_type")
    architecture = architecture_for(source.config, source.vocabulary.size, imported_from)
    if architecture.model_type not in _ARCHITECTURES:
        raise ValueError(
            f"the model is a {architecture.model_type}; --to gguf writes {', '.join(_ARCHITECTURES)}. Use --to hf"
        )
    name = _ARCHITECTURES[architecture.model_type]
    tensors = _Tensors(source, entries_of(source, architecture), name, dtype)
    with new_file(out) as aside:
        writer = gguf.GGUFWriter(aside, name)
        add_model(writer, source.config, source.vocabulary.size, _context(source))
        add_vocabulary(writer, source.vocabulary)
        tensors.write(writer)
        tensors.refuse_unequal(gguf.GGUFReader(aside))
    return len(tensors.types)


def _context(source: Source) -> int:
    """As long as it was trained for."""
    if "pipeline" in source.phase:
        return source.phase["pipeline"]["slots"]
    fields = json.loads((source.checkpoint.path / "source" / "config.json").read_text())
    return fields.get("max_position_embeddings", _DEFAULT_CONTEXT)


class _Tensors:
    """The tensors of a file, by their names there."""

    def __init__(self, source: Source, entries: list[Entry], architecture: str, dtype: str | None):
        import gguf

        self.source, self._added = source, 1.0 if source.config.norm.offset else 0.0
        kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
        table = gguf.get_tensor_name_map(kind, source.config.num_layers)
        self.entries: dict[str, Entry] = {}
        for entry in sorted(entries, key=lambda entry: source.places[entry.ours].path):  # parts of one array together
            self.entries[_name(table, entry)] = entry
        self.types = {name: self._type(name, entry, dtype) for name, entry in self.entries.items()}
        wide = source.config.attention("global")
        self._frequencies: np.ndarray | None = None
        if architecture == "gemma4":
            half = wide.head_dim // 2
            turning = np.arange(half) < int(wide.rope_fraction * half)
            self._frequencies = np.where(turning, 1.0, _STANDS_STILL).astype(np.float32)
            self.types[_FREQUENCIES] = gguf.GGMLQuantizationType.F32

    def write(self, writer: Any) -> None:
        """Memory holds one tensor, and the chunk that it is part of where layers share one."""
        import gguf

        widest = max(self.types.values(), key=list(self.types.values()).count)
        writer.add_file_type(getattr(gguf.LlamaFileType, _FILE_TYPES[widest.name]))
        if widest == gguf.GGMLQuantizationType.Q8_0:
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for name, kind in self.types.items():
            block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            dims = self._dims(name)
            num_bytes = math.prod(dims) // block * block_bytes
            writer.add_tensor_info(name, dims, np.dtype(np.float32), num_bytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        params = self.source.cached(self.source.largest_array + SLACK)
        for name in self.types:
            writer.write_tensor_data(self._stored(params, name))
        writer.close()

    def refuse_unequal(self, reader: Any) -> None:
        """Raises ExportError for a tensor that is missing, or differs in any bit from what it should be."""
        params = self.source.cached(self.source.largest_array + SLACK)
        found = {tensor.name: tensor for tensor in reader.tensors}
        if found.keys() != self.types.keys():
            odd = sorted(found.keys() ^ self.types.keys())
            raise ExportError(f"the tensor {odd[0]!r} (and {len(odd) - 1} others) is not both written and read back")
        for name, tensor in found.items():
            wanted, dims = self._stored(params, name), tuple(reversed(tensor.shape.tolist()))
            same = tensor.tensor_type == self.types[name] and dims == self._dims(name)
            if not same or not equal_bits(_bytes(tensor.data), _bytes(wanted)):
                ours = self.entries[name].ours if name in self.entries else "the RoPE frequencies"
                raise ExportError(f"the tensor {name!r} read back differs from {ours!r}")

    def _type(self, name: str, entry: Entry, dtype: str | None) -> Any:
        import gguf

        dims, types = their_shape(entry, self.source.shapes[entry.ours]), gguf.GGMLQuantizationType
        if len(dims) < 2 or "ffn_gate_inp" in name:
            return types.F32
        kind = types[TYPES[dtype or self.source.dtype(entry.ours, entry.theirs).name]]
        if dims[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            raise ValueError(
                f"the tensor {name!r} has rows of {dims[-1]}, which do not divide into {kind.name}'s blocks of 32; "
                "choose another --dtype"
            )
        return kind

    def _dims(self, name: str) -> tuple[int, ...]:
        if name == _FREQUENCIES:
            assert self._frequencies is not None
            return self._frequencies.shape
        entry = self.entries[name]
        return their_shape(entry, self.source.shapes[entry.ours])

    def _stored(self, params: StoredItem, name: str) -> np.ndarray:
        """The tensor as it lies in the file, in bytes where NumPy has no such numbers."""
        import gguf

        if name == _FREQUENCIES:
            assert self._frequencies is not None
            return self._frequencies
        entry = self.entries[name]
        part = entry.layout.to_theirs(self.source.read(params, entry.ours, entry.index, entry.theirs))
        part = np.ascontiguousarray(part)
        if self.types[name] == gguf.GGMLQuantizationType.BF16 and part.dtype.name == "bfloat16":
            return part.view(np.uint8)
        part = part.astype(np.float32, copy=False)
        if self._added and name.endswith("norm.weight"):
            part = part + np.float32(self._added)
        return gguf.quantize(part, self.types[name])


_FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}


def _name(table: Any, entry: Entry) -> str:
    before, _, rest = entry.theirs.removeprefix("model.layers.").partition(".")
    if entry.theirs.startswith("model.layers.") and rest in _NAMES:
        return f"blk.{before}.{_NAMES[rest]}"
    name = table.get_name(entry.theirs, try_suffixes=(".weight",))
    assert name is not None, entry.theirs
    return name


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
