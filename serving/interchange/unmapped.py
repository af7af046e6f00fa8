"""Why an architecture of HF transformers cannot be imported, by the fields of its config.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

# Layers that no mixer of this stack computes, by a field that only models with such layers have. S5, the recurrent
# mixer here, has one transition for all inputs; in these the input chooses it.
_LAYERS = {
    "RG-LRU": ("block_types", "lru_width"),
    "Mamba": ("mamba_d_state", "mamba_num_heads", "state_size", "ssm_state_size"),
    "gated delta net": ("linear_num_key_heads", "linear_num_value_heads"),
    "short convolution": ("conv_L_cache",),
    "xLSTM": ("qk_dim_factor",),
    "lightning attention": ("linear_attn_alpha_factor",),
}


def refuse_model_type(fields: Mapping[str, Any], known: Iterable[str]) -> NoReturn:
    """Raises ValueError: what this stack maps and, where it is known, which fields stand in the way."""
    reasons = ""
    for layers, names in _LAYERS.items():
        given = ", ".join(f"{name} is {fields[name]!r}" for name in names if name in fields)
        if given:
            reasons += f" {given}: those are {layers} layers, which no mixer of this stack computes."
    raise ValueError(
        f"config.json: model_type is {fields.get('model_type')!r}; this stack maps {', '.join(known)}.{reasons}"
    )
