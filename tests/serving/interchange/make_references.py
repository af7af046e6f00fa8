"""Tiny random models of HF transformers with what they compute: the files that imports and exports are tested against.

    python tests/serving/interchange/make_references.py tests/assets/transformers [NAME ...]    # needs transformers

Each folder gets the model as `save_pretrained` writes it and `expected.npz`: two documents, their logits, the mean loss
of their next tokens and its gradient for every parameter, all float32 by the reference's own eager code.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

VOCAB, DIM, LAYERS, WINDOW = 96, 24, 4, 6
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": DIM,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PATTERN = ["sliding_attention", "sliding_attention", "full_attention"]
GEMMA3 = {
    "sliding_window": WINDOW,
    "layer_types": [PATTERN[i % 3] for i in range(LAYERS + 3)],
    "num_hidden_layers": LAYERS + 3,
    "query_pre_attn_scalar": 20,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}
GEMMA4 = {
    "sliding_window": WINDOW,
    "layer_types": PATTERN * 2,
    "num_hidden_layers": 6,
    "global_head_dim": 16,
    "hidden_size_per_layer_input": 0,
    "final_logit_softcapping": 30.0,
}
# As the released 26B-A4B and 31B have them: global layers with few keys, which are values too.
TIED = {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "num_hidden_layers": 3, "layer_types": PATTERN}
MOE = {"num_experts": 5, "enable_moe_block": True, "top_k_experts": 2, "moe_intermediate_size": 12}
MODELS = {
    "gemma3_text": ("Gemma3", "Gemma3TextConfig", GEMMA3),
    "gemma4_dense": ("Gemma4", "Gemma4TextConfig", GEMMA4),
    "gemma4_moe": ("Gemma4", "Gemma4TextConfig", GEMMA4 | MOE),
    "gemma4_tied_values": ("Gemma4", "Gemma4TextConfig", GEMMA4 | MOE | TIED),
    "mixtral": (
        "Mixtral",
        "MixtralConfig",
        {"num_hidden_layers": 2, "num_local_experts": 4, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5},
    ),
    "qwen3_moe": (
        "Qwen3Moe",
        "Qwen3MoeConfig",
        {
            "num_hidden_layers": 2,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 12,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
    ),
}


# Four slots of 4 x 4 patches for each picture of 8 x 8.
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 4,
    "vision_use_head": False,
}
SLOTS, BEGIN, END, SOFT = 4, 4, 5, 90
IMAGES = {
    "vision_config": VISION,
    "mm_tokens_per_image": SLOTS,
    "boi_token_index": BEGIN,
    "eoi_token_index": END,
    "image_token_index": SOFT,
}


def build(name: str):
    if name == "gemma3":
        config = transformers.Gemma3Config(text_config=SHAPE | GEMMA3, **IMAGES, attn_implementation="eager")
        return randomised(transformers.Gemma3ForConditionalGeneration(config).float().eval())
    family, config_class, extra = MODELS[name]
    config = getattr(transformers, config_class)(**(SHAPE | extra), attn_implementation="eager")
    return randomised(getattr(transformers, f"{family}ForCausalLM")(config).float().eval())


def randomised(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for n, b in model.named_buffers() if n.endswith("layer_scalar"))]:
            spread = 0.3 if tensor.ndim == 1 else 1.5 * tensor.shape[-1] ** -0.5
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * spread + tensor.mean() * (tensor.ndim == 1))
    return model


def with_pictures(document: np.ndarray, places: tuple[int, ...]) -> np.ndarray:
    """The text without special tokens, and begin, slots and end of a picture put in at each place."""
    text = np.where((document == SOFT) | (document <= END), END + 1, document)
    return np.insert(text, np.repeat(places, SLOTS + 2), [BEGIN, *[SOFT] * SLOTS, END] * len(places))


def seen(pixels: np.ndarray, ids: torch.Tensor) -> dict:
    scaled = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    return {"pixel_values": scaled, "token_type_ids": (ids == SOFT).long()}


def write(name: str, folder: Path) -> None:
    model = build(name)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    rng = np.random.default_rng(0)
    documents = [rng.integers(3, VOCAB, length) for length in (21, 13)]
    pictures: list = [None] * len(documents)
    if name == "gemma3":
        documents = [with_pictures(document, at) for document, at in zip(documents, ((3, 12), (2,)), strict=True)]
        size = VISION["image_size"]
        pictures = [rng.integers(0, 256, (num, size, size, 3), np.uint8) for num in (2, 1)]
    arrays, gradients = computed(model, documents, pictures)
    arrays |= {f"gradient/{n}": gradient for n, gradient in gradients.items()}
    arrays |= {f"pixels/{i}": pixels for i, pixels in enumerate(pictures) if pixels is not None}
    save(folder, arrays)


def computed(model, documents: list, pictures: list) -> tuple[dict, dict]:
    """(tokens, logits and the mean loss of their next tokens, its gradient by parameter)"""
    arrays, losses, targets = {}, [], 0
    for i, (document, pixels) in enumerate(zip(documents, pictures, strict=True)):
        ids = torch.tensor(document)[None]
        inputs = {} if pixels is None else seen(pixels, ids)
        out = model(input_ids=ids, use_cache=False, **inputs).logits[0]
        wanted = torch.where(ids[0, 1:] == SOFT, -100, ids[0, 1:]) if inputs else ids[0, 1:]
        targets += int((wanted >= 0).sum())
        losses.append(torch.nn.functional.cross_entropy(out[:-1], wanted, reduction="sum"))
        arrays |= {f"tokens/{i}": document.astype(np.int32), f"logits/{i}": out.detach().numpy()}
    loss = sum(losses) / targets
    loss.backward()
    gradients = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    return arrays | {"loss": loss.detach().numpy()}, gradients


def save(folder: Path, arrays: dict) -> None:
    np.savez_compressed(folder / "expected.npz", **arrays)
    (folder / "versions.json").write_text(
        json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}) + "\n"
    )


if __name__ == "__main__":
    for name in sys.argv[2:] or (*MODELS, "gemma3"):
        write(name, Path(sys.argv[1]) / name)
