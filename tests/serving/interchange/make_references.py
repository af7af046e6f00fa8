"""Tiny random models of HF transformers with what they compute: the files that imports and exports are tested against.

    python tests/serving/interchange/make_references.py tests/assets/transformers    # needs torch and transformers

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


def build(name: str):
    family, config_class, extra = MODELS[name]
    config = getattr(transformers, config_class)(**(SHAPE | extra), attn_implementation="eager")
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for n, b in model.named_buffers() if n.endswith("layer_scalar"))]:
            spread = 0.3 if tensor.ndim == 1 else 1.5 * tensor.shape[-1] ** -0.5
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * spread + tensor.mean() * (tensor.ndim == 1))
    return model


def write(name: str, folder: Path) -> None:
    model = build(name)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    rng = np.random.default_rng(0)
    documents = [rng.integers(3, VOCAB, length) for length in (21, 13)]
    logits, losses = [], []
    for document in documents:
        ids = torch.tensor(document)[None]
        out = model(input_ids=ids, use_cache=False).logits[0]
        logits.append(out.detach().numpy())
        losses.append(torch.nn.functional.cross_entropy(out[:-1], ids[0, 1:], reduction="sum"))
    loss = sum(losses) / sum(len(document) - 1 for document in documents)
    loss.backward()
    arrays = {f"gradient/{n}": p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    for i, (document, values) in enumerate(zip(documents, logits, strict=True)):
        arrays |= {f"tokens/{i}": document.astype(np.int32), f"logits/{i}": values}
    np.savez_compressed(folder / "expected.npz", loss=loss.detach().numpy(), **arrays)
    (folder / "versions.json").write_text(
        json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}) + "\n"
    )


if __name__ == "__main__":
    for name in MODELS:
        write(name, Path(sys.argv[1]) / name)
