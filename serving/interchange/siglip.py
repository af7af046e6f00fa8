"""SigLIP encoders of HF transformers and the projector of Gemma 3: name table and config fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from model.config import SiglipConfig
from serving.interchange.fields import Fields
from serving.interchange.layers import Row
from serving.interchange.tensors import LINEAR, LINEAR_FROM_HEADS, LINEAR_TO_HEADS, SAME, Entry, Layout


def _kernel_of(patch_PE: np.ndarray) -> np.ndarray:
    """[pixels of a patch by row, column and channel, E] -> [E, channel, row, column]."""
    side = round((patch_PE.shape[0] // 3) ** 0.5)
    return patch_PE.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)


_PATCH = Layout(lambda x, shape: x.transpose(2, 3, 1, 0).reshape(shape), _kernel_of)
_HEADS = Layout(lambda x, shape: x.reshape(shape), lambda x: x.reshape(-1))
_LAYER: tuple[Row, ...] = (
    ("attention_norm/scale", "layer_norm1.weight", SAME),
    ("attention_norm/bias", "layer_norm1.bias", SAME),
    ("query/kernel", "self_attn.q_proj.weight", LINEAR_TO_HEADS),
    ("query/bias", "self_attn.q_proj.bias", _HEADS),
    ("key/kernel", "self_attn.k_proj.weight", LINEAR_TO_HEADS),
    ("key/bias", "self_attn.k_proj.bias", _HEADS),
    ("value/kernel", "self_attn.v_proj.weight", LINEAR_TO_HEADS),
    ("value/bias", "self_attn.v_proj.bias", _HEADS),
    ("out/kernel", "self_attn.out_proj.weight", LINEAR_FROM_HEADS),
    ("out/bias", "self_attn.out_proj.bias", SAME),
    ("mlp_norm/scale", "layer_norm2.weight", SAME),
    ("mlp_norm/bias", "layer_norm2.bias", SAME),
    ("up/kernel", "mlp.fc1.weight", LINEAR),
    ("up/bias", "mlp.fc1.bias", SAME),
    ("down/kernel", "mlp.fc2.weight", LINEAR),
    ("down/bias", "mlp.fc2.bias", SAME),
)
_OUTSIDE: tuple[Row, ...] = (
    ("encoder/patch/kernel", "vision_tower.vision_model.embeddings.patch_embedding.weight", _PATCH),
    ("encoder/patch/bias", "vision_tower.vision_model.embeddings.patch_embedding.bias", SAME),
    ("encoder/position", "vision_tower.vision_model.embeddings.position_embedding.weight", SAME),
    ("encoder/norm/scale", "vision_tower.vision_model.post_layernorm.weight", SAME),
    ("encoder/norm/bias", "vision_tower.vision_model.post_layernorm.bias", SAME),
    ("norm/scale", "multi_modal_projector.mm_soft_emb_norm.weight", SAME),
    ("projector", "multi_modal_projector.mm_input_projection_weight", SAME),
)


def siglip_entries(config: SiglipConfig) -> Iterator[Entry]:
    """The names of released checkpoints; our layers are stacked."""
    for ours, theirs, layout in _OUTSIDE:
        yield Entry(theirs, f"image/{ours}", layout)
    for i in range(config.num_layers):
        for ours, theirs, layout in _LAYER:
            layer = f"vision_tower.vision_model.encoder.layers.{i}"
            yield Entry(f"{layer}.{theirs}", f"image/encoder/blocks/{ours}", layout, (i,))


def read_siglip(given: Mapping[str, Any], num_slots: int) -> SiglipConfig:
    """From a `vision_config` whose patches are averaged to `num_slots`; what it leaves out is as transformers has it.

    Raises ValueError for a field that this stack cannot express, by its name.
    """
    fields = Fields(given, "vision_config")
    fields.require("model_type", "siglip_vision_model")
    fields.require("num_channels", 3)
    fields.require("hidden_act", "gelu_pytorch_tanh")
    fields.take("vision_use_head", None)  # a pooling head that Gemma 3 does not read
    size, patch_size = fields.take("image_size", 224), fields.take("patch_size", 16)
    whole = isinstance(size, int) and isinstance(patch_size, int)
    patches, slots = (size // patch_size, round(num_slots**0.5)) if whole else (0, 1)
    if not whole or size != patches * patch_size or slots**2 != num_slots or patches % slots:
        raise ValueError(
            f"config.json: mm_tokens_per_image is {num_slots} with an image_size of {size} and a patch_size of "
            f"{patch_size}; this stack needs a square picture of whole patches, and squares of patches that fill it"
        )
    config = SiglipConfig(
        kind="siglip",
        height=size,
        width=size,
        patch_size=patch_size,
        pool=patches // slots,
        encoder_dim=fields.take("hidden_size", 768),
        num_layers=fields.take("num_hidden_layers", 12),
        hidden_dim=fields.take("intermediate_size", 3072),
        num_heads=fields.take("num_attention_heads", 12),
        epsilon=fields.take("layer_norm_eps", 1e-6),
    )
    fields.finish()
    return config


def write_siglip(config: SiglipConfig) -> dict[str, Any]:
    """The inverse of `read_siglip`. Raises ValueError for a picture that is no square."""
    if config.height != config.width:
        raise ValueError(f"image.height is {config.height} and image.width {config.width}; a gemma3 sees squares")
    return {
        "model_type": "siglip_vision_model",
        "image_size": config.height,
        "patch_size": config.patch_size,
        "num_channels": 3,
        "hidden_size": config.encoder_dim,
        "num_hidden_layers": config.num_layers,
        "intermediate_size": config.hidden_dim,
        "num_attention_heads": config.num_heads,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": config.epsilon,
        "vision_use_head": False,
    }
