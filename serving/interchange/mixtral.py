"""Decoders with routed experts in every layer: Mixtral (arXiv 2401.04088) and Qwen3-MoE (arXiv 2505.09388)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from model.config import AttentionConfig, ModelConfig, MoEConfig, NormConfig
from serving.interchange.fields import Fields, read_rope, section
from serving.interchange.layers import ATTENTION, PRE_NORM, QK_NORM, decoder_entries, expert_entries
from serving.interchange.tensors import LINEAR, Entry


class Mixtral:
    """`mixtral`: no norm of queries and keys; experts w1, w3, w2 below `block_sparse_moe`."""

    model_type, class_name = "mixtral", "MixtralForCausalLM"
    _qk_norm = False
    _module, _gate, _up, _down = "block_sparse_moe", "w1", "w3", "w2"
    _num_experts, _hidden_dim = "num_local_experts", "intermediate_size"

    def entries(self, config: ModelConfig) -> Iterator[Entry]:
        router = (("ffn/router", f"{self._module}.gate.weight", LINEAR),)
        yield from decoder_entries(config, (*ATTENTION, *(QK_NORM if self._qk_norm else ()), *PRE_NORM, *router))
        yield from expert_entries(config, self._module, self._gate, self._up, self._down)

    def read_config(self, given: Mapping[str, Any]) -> ModelConfig:
        fields = Fields(given, self.model_type)
        num_heads, model_dim = fields.take("num_attention_heads"), fields.take("hidden_size")
        rope = fields.take("rope_parameters", None) or {"rope_type": "default", "rope_theta": fields.take("rope_theta")}
        attention: dict[str, Any] = {
            "num_heads": num_heads,
            "num_kv_heads": fields.take("num_key_value_heads", num_heads),
            "head_dim": fields.take("head_dim", None) or model_dim // num_heads,
            "qk_norm": self._qk_norm,
            **read_rope(rope, "rope_parameters"),
        }
        window = fields.take("sliding_window", None)
        window = window if fields.take("use_sliding_window", window is not None) else None
        fields.require("hidden_act", "silu")
        self._refuse(fields)
        config = ModelConfig(
            model_dim=model_dim,
            num_layers=fields.take("num_hidden_layers"),
            pattern=("global",) if window is None else ("local",),
            ffn=("moe",),
            global_attention=AttentionConfig(**attention) if window is None else None,
            local_attention=None if window is None else AttentionConfig(**attention, window=window),
            moe=MoEConfig(
                num_experts=_either(fields, "num_local_experts", "num_experts"),
                top_k=fields.take("num_experts_per_tok", 2),
                hidden_dim=fields.take(self._hidden_dim),
            ),
            norm=NormConfig(fields.take("rms_norm_eps"), offset=False),
            scale_embeddings=False,
            tied_head=fields.take("tie_word_embeddings", False),
        )
        fields.finish()
        return config

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        attention = config.global_attention or section(config, "local_attention", self.model_type)
        moe = section(config, "moe", self.model_type)
        return {
            "hidden_size": config.model_dim,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": attention.num_heads,
            "num_key_value_heads": attention.num_kv_heads,
            "head_dim": attention.head_dim,
            "rope_parameters": {"rope_type": "default", "rope_theta": attention.rope_base},
            "sliding_window": attention.window,
            "hidden_act": "silu",
            self._num_experts: moe.num_experts,
            "num_experts_per_tok": moe.top_k,
            self._hidden_dim: moe.hidden_dim,
            "rms_norm_eps": config.norm.epsilon,
            "tie_word_embeddings": config.tied_head,
        }

    def _refuse(self, fields: Fields) -> None:
        pass


class Qwen3Moe(Mixtral):
    """`qwen3_moe`: queries and keys are normalised; the dense width is that of layers this stack refuses."""

    model_type, class_name = "qwen3_moe", "Qwen3MoeForCausalLM"
    _qk_norm = True
    _module, _gate, _up, _down = "mlp", "gate_proj", "up_proj", "down_proj"
    _num_experts, _hidden_dim = "num_experts", "moe_intermediate_size"

    def _refuse(self, fields: Fields) -> None:
        fields.require("attention_bias", False)
        fields.require("norm_topk_prob", True, default=False)
        fields.require("decoder_sparse_step", 1)
        fields.require("mlp_only_layers", [], None)
        for without_effect in ("intermediate_size", "max_window_layers"):
            fields.take(without_effect, None)

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        window = {"use_sliding_window": config.local_attention is not None}
        return (
            super().write_config(config)
            | window
            | {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
        )


def _either(fields: Fields, *names: str) -> Any:
    """A field that writers name differently."""
    given = [value for value in (fields.take(name, None) for name in names) if value is not None]
    return given[0] if given else fields.take(names[0])
