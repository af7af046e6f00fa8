"""What HF transformers computes with the five sizes of Gemma 3, widths divided by 32 to 48 and one period of layers.

    python tests/serving/interchange/make_size_references.py tests/assets/transformers/sizes      # needs transformers

Numbers of heads, ratios of widths, scales, patches and pooling are those of the released config.json files. Each folder
gets config.json, the shapes of all tensors, and `expected.npz`: two documents, their logits, the mean loss of their
next tokens and a sketch of its gradient for every tensor. Weights follow from names (`named_weights.py`).
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import transformers
from make_references import BEGIN, END, SLOTS, SOFT, VOCAB, computed, save, with_pictures
from named_weights import pictures, sketch, weight
from safetensors import safe_open
from safetensors.numpy import save_file

DIVISOR, PERIOD = 32, 6
# Of the model's and the feed-forward's width, since transformers wants the former to be a multiple of the heads.
WIDTH_DIVISORS = {"270m": 32, "1b": 32, "4b": 32, "12b": 48, "27b": 42}
# layers, hidden_size, intermediate_size, heads, key/value heads, head_dim, query_pre_attn_scalar, window, RoPE factor
SIZES = {
    "270m": (18, 640, 2048, 4, 1, 256, 256, 512, 1),
    "1b": (26, 1152, 6912, 4, 1, 256, 256, 512, 1),
    "4b": (34, 2560, 10240, 8, 4, 256, 256, 1024, 8),
    "12b": (48, 3840, 15360, 16, 8, 256, 256, 1024, 8),
    "27b": (62, 5376, 21504, 32, 16, 128, 168, 1024, 8),
}
SEEING = ("4b", "12b", "27b")
VISION = {
    "hidden_size": 1152 // DIVISOR,
    "intermediate_size": 4304 // DIVISOR,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 896 // 8,
    "patch_size": 14,
    "vision_use_head": False,
}


def text_fields(size: str) -> dict:
    layers, width, hidden, heads, kv_heads, head_dim, scalar, window, factor = SIZES[size]
    rope = {"rope_type": "linear", "factor": float(factor)} if factor > 1 else {"rope_type": "default"}
    return {
        "vocab_size": VOCAB,
        "num_hidden_layers": PERIOD + layers % PERIOD,
        "hidden_size": width // WIDTH_DIVISORS[size],
        "intermediate_size": hidden // WIDTH_DIVISORS[size],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim // DIVISOR,
        "query_pre_attn_scalar": scalar // DIVISOR,
        "sliding_window": window // DIVISOR,
        "max_position_embeddings": 128,
        "rope_parameters": {
            "full_attention": rope | {"rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def config_of(size: str):
    if size not in SEEING:
        return transformers.Gemma3TextConfig(**text_fields(size))
    ids = {"boi_token_index": BEGIN, "eoi_token_index": END, "image_token_index": SOFT}
    return transformers.Gemma3Config(
        text_config=text_fields(size), vision_config=VISION, mm_tokens_per_image=SLOTS, **ids
    )


def model_of(size: str, folder: Path):
    """The class that the size is released in, with named weights; writes config.json and shapes.json."""
    family = transformers.Gemma3ForConditionalGeneration if size in SEEING else transformers.Gemma3ForCausalLM
    with tempfile.TemporaryDirectory() as scratch:
        family(config_of(size)).float().save_pretrained(scratch)
        file = Path(scratch) / "model.safetensors"
        with safe_open(file, "numpy") as opened:
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
        save_file({name: weight(name, tuple(dims)) for name, dims in shapes.items()}, file, {"format": "pt"})
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text((Path(scratch) / "config.json").read_text())
        (folder / "shapes.json").write_text(json.dumps(shapes, indent=0) + "\n")
        return family.from_pretrained(scratch, attn_implementation="eager").float().eval(), shapes


def write(size: str, folder: Path) -> None:
    model, shapes = model_of(size, folder)
    rng, lengths, places = np.random.default_rng(0), (60, 13), ((9, 25), (2,))
    documents = [rng.integers(3, VOCAB, length) for length in lengths]
    noise = [None, None]
    if size in SEEING:
        documents = [with_pictures(document, at) for document, at in zip(documents, places, strict=True)]
        noise = [pictures(i, len(at), VISION["image_size"]) for i, at in enumerate(places)]
    arrays, gradients = computed(model, documents, noise)
    stored = {name: name for name in gradients} if size not in SEEING else _stored_names(gradients, shapes)
    save(folder, arrays | {f"gradient/{stored[n]}": sketch(stored[n], gradient) for n, gradient in gradients.items()})


def _stored_names(names, shapes) -> dict:
    """Of a model with pictures: files have other prefixes than modules."""
    changed = {}
    for name in names:
        stored = name.removeprefix("model.").replace("language_model.", "language_model.model.", 1)
        tower = stored.replace("vision_tower.", "vision_tower.vision_model.", 1)
        changed[name] = stored if stored in shapes else tower
        assert changed[name] in shapes, name
    return changed


if __name__ == "__main__":
    for size in SIZES:
        write(size, Path(sys.argv[1]) / size)
