"""Quantisation-aware training: one text model, then a short phase for each form its weights shall be stored in.

    python -m train --config configs/quantized.py --workdir runs/quantized
    python -m serving.export --checkpoint runs/quantized/int4_block32 --to stablehlo --quantize int4 --block 32 \\
        --out DIR

Every phase starts from the pre-trained model, sees the weights rounded as an export stores them, and learns from the
unrounded model's distribution (Gemma 3, section 2.3). `further` does the same without rounding, as the measure.

Expect, on the held-out tenth of the text: 3.92 nats a token for `further` and within 0.1 % of it for all four forms;
rounded without training, int4 is 0.9 % (blocks of 32) and 1.3 % (channels) worse, int8 and fp8 next to nothing, as
`python -m benchmarks.quantization` measures. Five minutes on two CPU cores.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

SHAKESPEARE = "tests/assets/text/shakespeare.txt"
FORMS = {
    "further": None,
    "int8": {"kind": "int8"},
    "fp8": {"kind": "fp8"},
    "int4_channel": {"kind": "int4"},
    "int4_block32": {"kind": "int4", "block": 32},
}


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError(f"configs/quantized.py has no variant {variant!r}; leave it out")
    config = ConfigDict({"seed": 0, "mesh": {}})
    text = {"paths": (SHAKESPEARE,), "holdout": 0.1}
    config.vocabulary = {"path": "runs/quantized/vocabulary.model", "size": 1024} | text
    config.sources = {"text": {"kind": "text"} | text}
    config.models = {"text": model()}
    config.train = {"phases": ("pretrain", *FORMS), "log_every": 20, "steps": placeholder(int)}
    config.phases = {"pretrain": phase("next_token", 700, 3e-3)}
    for name, form in FORMS.items():
        config.phases[name] = phase("distill", 100, 5e-4) | {
            "init": "phase:pretrain",
            "teacher": "pretrain",
            "options": {"alpha": 1.0},
            "quantize": form,
        }
    return config


def model() -> dict:
    attention = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32}
    return {
        "model_dim": 128,
        "num_layers": 3,
        "pattern": ("local", "global", "recurrent"),
        "local_attention": attention | {"window": 64},
        "global_attention": attention | {"rope_base": 100_000.0},
        "recurrent": {"num_states": 64},
        "ffn": ("moe", "dense"),
        "moe": {"num_experts": 4, "top_k": 2, "hidden_dim": 128, "shared_dim": 128},
        "dense": {"hidden_dim": 256},
    }


def phase(objective: str, steps: int, learning_rate: float) -> dict:
    return {
        "objective": objective,
        "model": "text",
        "mixture": {"text": 1.0},
        "pipeline": {"batch_size": 8, "slots": 256},
        "steps": steps,
        "optimizer": {"kind": "muon", "learning_rate": learning_rate, "warmup": 0.05, "final": 0.1, "b2": 0.98},
    }
