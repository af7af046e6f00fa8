"""Gemma 3 text models (arXiv 2503.19786), `gemma3_text` of HF transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from model.config import AttentionConfig, DenseConfig, Mixer, ModelConfig, NormConfig
from serving.interchange.fields import Fields, read_rope, section
from serving.interchange.layers import ATTENTION, GATED, QK_NORM, SANDWICH_NORM, decoder_entries, shortest_pattern
from serving.interchange.tensors import Entry

_KINDS: dict[str, Mixer] = {"sliding_attention": "local", "full_attention": "global"}
_NAMES = {ours: theirs for theirs, ours in _KINDS.items()}


class Gemma3Text:
    """`gemma3_text`: local and global layers, dense, norms before and after."""

    model_type, class_name = "gemma3_text", "Gemma3ForCausalLM"

    def entries(self, config: ModelConfig) -> Iterator[Entry]:
        return decoder_entries(config, (*ATTENTION, *QK_NORM, *SANDWICH_NORM, *GATED))

    def read_config(self, given: Mapping[str, Any]) -> ModelConfig:
        """From a config.json, new (`rope_parameters`, `layer_types`) or as released (`rope_theta` and others)."""
        fields = Fields(given, self.model_type)
        num_layers = fields.take("num_hidden_layers")
        every = fields.take("sliding_window_pattern", 6)
        default = ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(num_layers)]
        layer_types = given.get("layer_types") or default
        ropes = _read_ropes(fields)
        fields.require("attention_bias", False)
        fields.require("use_bidirectional_attention", False)
        fields.require("hidden_activation", "gelu_pytorch_tanh")
        fields.require("tie_word_embeddings", True)
        attention: dict[str, Any] = {
            "num_heads": fields.take("num_attention_heads"),
            "num_kv_heads": fields.take("num_key_value_heads"),
            "head_dim": fields.take("head_dim", 256),
            "query_scale": fields.take("query_pre_attn_scalar", 256) ** -0.5,
            "softcap": fields.take("attn_logit_softcapping", None),
        }
        window = fields.take("sliding_window", 4096)
        config = ModelConfig(
            model_dim=fields.take("hidden_size"),
            num_layers=num_layers,
            pattern=shortest_pattern([_KINDS[kind] for kind in layer_types]),
            ffn=("dense",),
            local_attention=AttentionConfig(**attention, window=window, **ropes["sliding_attention"])
            if "sliding_attention" in layer_types
            else None,
            global_attention=AttentionConfig(**attention, **ropes["full_attention"])
            if "full_attention" in layer_types
            else None,
            dense=DenseConfig(fields.take("intermediate_size"), "gelu"),
            norm=NormConfig(fields.take("rms_norm_eps", 1e-6)),
            norms="sandwich",
            final_softcap=fields.take("final_logit_softcapping", None),
        )
        fields.finish()
        return config

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        """The inverse of `read_config`, in the fields of transformers 5."""
        attention = config.local_attention or section(config, "global_attention", self.model_type)
        dense = section(config, "dense", self.model_type)
        ropes = {
            _NAMES[kind]: {"rope_theta": own.rope_base}
            | ({"rope_type": "default"} if own.rope_scale == 1 else {"rope_type": "linear", "factor": own.rope_scale})
            for kind, own in (("local", config.local_attention), ("global", config.global_attention))
            if own is not None
        }
        return {
            "hidden_size": config.model_dim,
            "num_hidden_layers": config.num_layers,
            "layer_types": [_NAMES[kind] for kind in config.mixers],
            "num_attention_heads": attention.num_heads,
            "num_key_value_heads": attention.num_kv_heads,
            "head_dim": attention.head_dim,
            "query_pre_attn_scalar": _inverse_square(attention.query_scale or attention.head_dim**-0.5),
            "attn_logit_softcapping": attention.softcap,
            "sliding_window": config.local_attention.window if config.local_attention else 4096,
            "rope_parameters": ropes,
            "intermediate_size": dense.hidden_dim,
            "final_logit_softcapping": config.final_softcap,
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": config.norm.epsilon,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "use_bidirectional_attention": False,
        }


def _inverse_square(query_scale: float) -> int:
    """transformers takes whole numbers alone."""
    scalar = query_scale**-2
    if abs(scalar - round(scalar)) > 1e-6 * scalar:
        raise ValueError(f"query_scale is {query_scale}; a gemma3_text has the inverse root of a whole number")
    return round(scalar)


def _read_ropes(fields: Fields) -> dict[str, Any]:
    """RoPE base and scale of each kind of layer."""
    given = fields.take("rope_parameters", None)
    if given is None:
        scaling = fields.take("rope_scaling", None) or {"rope_type": "default"}
        given = {
            "full_attention": {"rope_theta": fields.take("rope_theta", 1e6), **scaling},
            "sliding_attention": {"rope_theta": fields.take("rope_local_base_freq", 1e4), "rope_type": "default"},
        }
    return {kind: read_rope(rope, f"rope_parameters.{kind}") for kind, rope in given.items()}
