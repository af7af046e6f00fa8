"""A folder of HF transformers: config.json and safetensors, read and written one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.config import ModelConfig
from serving.interchange.gemma3 import Gemma3Text
from serving.interchange.gemma4 import Gemma4Text
from serving.interchange.mixtral import Mixtral, Qwen3Moe
from serving.interchange.tensor_files import StoredTensor, open_tensors
from serving.interchange.tensors import Entry, read_part, their_shape

ARCHITECTURES = {
    architecture.model_type: architecture for architecture in (Gemma3Text(), Gemma4Text(), Mixtral(), Qwen3Moe())
}
# Small files beside the weights that an import keeps and an export gives back.
CARRIED = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.json", "chat_template.jinja"),
)
_HEAD = "lm_head.weight"
# Where other writers put the same text model.
_PREFIXES = (("", ""), ("model.", "language_model.model."), ("model.", "model.language_model."))


class ModelFolder:
    """An opened model: its config in our terms and its tensors by our names."""

    def __init__(self, path: str | Path):
        """Raises ValueError for an architecture, or a field of it, that this stack cannot express."""
        self.path = Path(path)
        file = self.path / "config.json"
        if not file.is_file():
            raise ValueError(f"{self.path} holds no config.json; give a folder as `save_pretrained` writes it")
        self.fields: dict[str, Any] = json.loads(file.read_text())
        model_type = self.fields.get("model_type")
        if model_type not in ARCHITECTURES:
            raise ValueError(f"config.json: model_type is {model_type!r}; this stack maps {', '.join(ARCHITECTURES)}")
        self.architecture = ARCHITECTURES[model_type]
        self.config: ModelConfig = self.architecture.read_config(self.fields)
        self.vocab_size: int = self.fields["vocab_size"]
        self._tensors = open_tensors(self.path)

    def parts(self, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[Entry, np.ndarray]]:
        """Every tensor in our layout, one at a time; `shapes` are those of our parameters by path.

        Raises:
            ValueError: a tensor that is missing, that nothing takes, or of another shape.
        """
        for entry, tensor in self.tensors(shapes).items():
            yield entry, read_part(entry, tensor.read(), shapes[entry.ours])

    def tensors(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[Entry, StoredTensor]:
        """Where every tensor lies; raises what `parts` raises, before anything is read."""
        found = {entry: self._find(entry.theirs) for entry in self.architecture.entries(self.config)}
        extra = set(self._tensors) - set(found.values())
        if self.config.tied_head and _HEAD in extra:
            self._refuse_other_head(found)
            extra.remove(_HEAD)
        if extra:
            raise ValueError(
                f"{self.path}: nothing takes the tensor {sorted(extra)[0]!r} (and {len(extra) - 1} others)"
            )
        for entry, name in found.items():
            given, wanted = self._tensors[name].shape.dims, their_shape(entry, shapes[entry.ours])
            if given != wanted:
                raise ValueError(
                    f"{self.path}: the tensor {name!r} has shape {list(given)}, but its config.json makes it "
                    f"{list(wanted)}; they do not belong together"
                )
        return {entry: self._tensors[name] for entry, name in found.items()}

    def _find(self, name: str) -> str:
        for ours, theirs in _PREFIXES:
            if name.startswith(ours) and theirs + name[len(ours) :] in self._tensors:
                return theirs + name[len(ours) :]
        raise ValueError(f"{self.path}: the tensor {name!r} is missing; the download or export is incomplete")

    def _refuse_other_head(self, found: Mapping[Entry, str]) -> None:
        """A tied head is sometimes written out; then it must be the embedding."""
        table = next(self._tensors[name] for entry, name in found.items() if entry.ours == "tokens/table")
        if not table.equals(self._tensors[_HEAD]):
            raise ValueError(
                f"{self.path}: {_HEAD!r} differs from the embedding although config.json ties them; set "
                "tie_word_embeddings to false if the model was trained so"
            )
