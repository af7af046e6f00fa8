"""Gemma 3 with images (arXiv 2503.19786, section 2.1), `gemma3` of HF transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from model.config import ModelConfig, SiglipConfig
from serving.interchange.fields import Fields
from serving.interchange.gemma3 import Gemma3Text
from serving.interchange.siglip import read_siglip, siglip_entries, write_siglip
from serving.interchange.tensors import Entry

# What transformers takes for a field that `text_config` leaves out, as released checkpoints do.
_TEXT_DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
}


class Gemma3:
    """`gemma3`: a `gemma3_text` that sees pictures through a SigLIP encoder."""

    model_type, class_name = "gemma3", "Gemma3ForConditionalGeneration"
    text_section = "text_config"
    unread = ("vision_tower.vision_model.head.",)  # of the pooling head, which has no part in what is computed
    _text = Gemma3Text()

    def entries(self, config: ModelConfig) -> Iterator[Entry]:
        for entry in self._text.entries(config):
            yield dataclasses.replace(entry, theirs=f"language_model.{entry.theirs}")
        yield from siglip_entries(_image_of(config))

    def read_config(self, given: Mapping[str, Any]) -> ModelConfig:
        fields = Fields(given, self.model_type)
        fields.require("tie_word_embeddings", True)
        for token in ("boi_token_index", "eoi_token_index", "image_token_index"):
            fields.take(token, None)  # the tokenizer knows these by name
        num_slots = fields.take("mm_tokens_per_image", 256)
        image = read_siglip(fields.take("vision_config", None) or {}, num_slots)
        text = self._text.read_config(self.text_fields(fields.take("text_config", None) or {}))
        fields.finish()
        config = dataclasses.replace(text, image=image)
        _refuse_wide_spans(config, f"config.json: mm_tokens_per_image is {num_slots}")
        return config

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        """The inverse of `read_config`."""
        image = _image_of(config)
        _refuse_wide_spans(config, f"image makes {image.num_slots} slots of a picture")
        text = self._text.write_config(dataclasses.replace(config, image=None))
        return {
            "text_config": text | {"model_type": self._text.model_type},
            "vision_config": write_siglip(image),
            "mm_tokens_per_image": image.num_slots,
            "tie_word_embeddings": True,
        }

    @staticmethod
    def text_fields(given: Mapping[str, Any]) -> dict[str, Any]:
        """A `text_config` with what it leaves out."""
        return _TEXT_DEFAULTS | dict(given)


def _image_of(config: ModelConfig) -> SiglipConfig:
    if not isinstance(config.image, SiglipConfig):
        raise ValueError(f"image is {config.image}; a gemma3 has a section of the kind 'siglip'")
    return config.image


def _refuse_wide_spans(config: ModelConfig, what: str) -> None:
    """A picture's slots all see each other here, whereas there a local layer's window cuts them too."""
    window, image = config.local_attention and config.local_attention.window, _image_of(config)
    if window and window < image.num_slots:
        raise ValueError(f"{what} and sliding_window {window}; the window of a gemma3 holds a whole picture")
