"""A folder of HF transformers: config.json and safetensors, read and written one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.config import ModelConfig, SiglipConfig
from serving.interchange.gemma3 import Gemma3Text
from serving.interchange.gemma3_images import Gemma3
from serving.interchange.gemma4 import Gemma4Text
from serving.interchange.image_processor import require_known_processor
from serving.interchange.kinema import Kinema
from serving.interchange.mixtral import Mixtral, Qwen3Moe
from serving.interchange.tensor_files import StoredTensor, open_tensors
from serving.interchange.tensors import Entry, read_part, their_shape
from serving.interchange.unmapped import refuse_model_type

ARCHITECTURES = {
    architecture.model_type: architecture
    for architecture in (Gemma3Text(), Gemma3(), Gemma4Text(), Mixtral(), Qwen3Moe())
}
# Small files beside the weights that an import keeps and an export gives back.
CARRIED = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.json", "chat_template.jinja"),
    *("preprocessor_config.json", "processor_config.json"),
)
_HEADS = ("lm_head.weight", "language_model.lm_head.weight")
# Where other writers put the same module; the longer prefix first where one begins another.
_PREFIXES = (
    ("vision_tower.vision_model.", "model.vision_tower.vision_model.", "vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("language_model.model.", "model.language_model.", "model."),
)


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
        readable = ARCHITECTURES | {Kinema.model_type: Kinema()}
        if model_type not in readable:
            refuse_model_type(self.fields, readable)
        self.architecture = readable[model_type]
        self.config: ModelConfig = self.architecture.read_config(self.fields)
        if isinstance(self.config.image, SiglipConfig):
            require_known_processor(self.path, self.config.image)
        self.vocab_size: int = text_fields(self.architecture, self.fields)["vocab_size"]
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
        unread = getattr(self.architecture, "unread", ())
        extra = {
            name
            for name in set(self._tensors) - set(found.values())
            if not any(other.startswith(unread) for other in _other_names(name))
        }
        for head in sorted(extra & set(_HEADS)) if self.config.tied_head else ():
            self._refuse_other_head(head, found)
            extra.remove(head)
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
        for other in _other_names(name):
            if other in self._tensors:
                return other
        raise ValueError(f"{self.path}: the tensor {name!r} is missing; the download or export is incomplete")

    def _refuse_other_head(self, head: str, found: Mapping[Entry, str]) -> None:
        """A tied head is sometimes written out; then it must be the embedding."""
        table = next(self._tensors[name] for entry, name in found.items() if entry.ours == "tokens/table")
        if not table.equals(self._tensors[head]):
            raise ValueError(
                f"{self.path}: {head!r} differs from the embedding although config.json ties them; set "
                "tie_word_embeddings to false if the model was trained so"
            )


def _other_names(name: str) -> list[str]:
    """What writers call the same tensor, this name first."""
    for prefixes in _PREFIXES:
        for prefix in prefixes:
            if name.startswith(prefix):
                return [name, *(other + name[len(prefix) :] for other in prefixes if other != prefix)]
    return [name]


def text_fields(architecture: Any, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a config.json that are about its text model, which may have a section of its own."""
    section = getattr(architecture, "text_section", None)
    return architecture.text_fields(fields.get(section) or {}) if section else fields


def with_text_fields(architecture: Any, fields: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A config.json with `more` about its text model."""
    section = getattr(architecture, "text_section", None)
    return dict(fields) | ({section: {**fields[section], **more}} if section else more)
