"""Gemma 4 text models, dense or with experts beside the dense feed-forward: `gemma4_text` of HF transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from model.config import AttentionConfig, DenseConfig, Mixer, ModelConfig, MoEConfig, NormConfig
from serving.interchange.fields import Fields, read_rope
from serving.interchange.layers import ATTENTION, GATED, QK_NORM, SANDWICH_NORM, Row, decoder_entries, shortest_pattern
from serving.interchange.tensors import EXPERTS, LINEAR, SAME, Entry, Layout

_KINDS: dict[str, Mixer] = {"sliding_attention": "local", "full_attention": "global"}
_NAMES = {ours: theirs for theirs, ours in _KINDS.items()}
_SCALAR = Layout(lambda x, shape: x.reshape(shape), lambda x: x.reshape(1))
_LAYER_SCALE: Row = ("layer_scale", "layer_scalar", _SCALAR)
# With experts beside it, the dense feed-forward and its first norm lie one level deeper here than without.
_DEEPER = {"ffn_norm/scale": "ffn/dense_norm/scale"} | {f"ffn/{w}": f"ffn/dense/{w}" for w in ("gate", "up", "down")}
_BESIDE: tuple[Row, ...] = (
    ("ffn/dense_post_norm/scale", "post_feedforward_layernorm_1.weight", SAME),
    ("ffn/moe_norm/scale", "pre_feedforward_layernorm_2.weight", SAME),
    ("ffn/moe_post_norm/scale", "post_feedforward_layernorm_2.weight", SAME),
    ("ffn/moe/router", "router.proj.weight", LINEAR),
    ("ffn/moe/router_scale", "router.scale", SAME),
    ("ffn/moe/expert_scale", "router.per_expert_scale", SAME),
    ("ffn/moe/gate_up", "experts.gate_up_proj", EXPERTS),
    ("ffn/moe/down", "experts.down_proj", EXPERTS),
)
_HEADS = {"head_dim": "head_dim", "num_key_value_heads": "num_kv_heads"}  # what global layers have of their own
_DEFAULT_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
}


class Gemma4Text:
    """`gemma4_text`: global layers have heads of another width, maybe another number, or values that are keys."""

    model_type, class_name = "gemma4_text", "Gemma4ForCausalLM"

    def entries(self, config: ModelConfig) -> Iterator[Entry]:
        rows: tuple[Row, ...] = (*ATTENTION, *QK_NORM, *SANDWICH_NORM, *GATED, _LAYER_SCALE)
        if config.moe is not None:
            rows = (*((_DEEPER.get(ours, ours), theirs, layout) for ours, theirs, layout in rows), *_BESIDE)
        tied = {
            f"stack/remainder/{i}/mixer/value" for i, m in enumerate(config.mixers) if config.attention(m).tied_values
        }
        return (entry for entry in decoder_entries(config, rows) if entry.ours not in tied)

    def read_config(self, given: Mapping[str, Any]) -> ModelConfig:
        """From a config.json with `per_layer_config`, or with the older `global_head_dim`."""
        fields = Fields(given, self.model_type)
        fields.require("hidden_size_per_layer_input", 0, default=256)
        fields.require("num_kv_shared_layers", 0)
        fields.require("use_double_wide_mlp", False)
        fields.require("use_bidirectional_attention", None, "vision")  # the latter is about images alone
        fields.require("attention_bias", False)
        fields.require("hidden_activation", "gelu_pytorch_tanh")
        fields.take("vocab_size_per_layer_input", None)
        num_layers = fields.take("num_hidden_layers")
        kinds = _layer_kinds(given.get("layer_types"), num_layers)
        moe = _read_moe(fields)
        window, heads = fields.take("sliding_window", 512), _read_global_heads(given, fields, kinds)
        config = ModelConfig(
            model_dim=fields.take("hidden_size"),
            num_layers=num_layers,
            pattern=shortest_pattern(kinds),
            ffn=("dense",) if moe is None else ("dense_moe",),
            local_attention=AttentionConfig(**_read_attention(fields, "local"), window=window)
            if "local" in kinds
            else None,
            global_attention=AttentionConfig(**_read_attention(fields, "global") | heads),
            dense=DenseConfig(fields.take("intermediate_size"), "gelu"),
            moe=moe,
            norm=NormConfig(fields.take("rms_norm_eps", 1e-6), offset=False),
            norms="sandwich",
            layer_scale=True,
            tied_head=fields.take("tie_word_embeddings", True),
            final_softcap=fields.take("final_logit_softcapping", None),
        )
        fields.finish()
        return config

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        """The inverse of `read_config`."""
        wide, dense, moe = config.global_attention, config.dense, config.moe
        if wide is None or config.mixers[-1] != "global":
            raise ValueError(f"pattern is {config.pattern}; a Gemma 4's last layer is 'global', so change num_layers")
        local = config.local_attention or wide
        if dense is None:
            raise ValueError("dense is None; every layer of a gemma4_text has it")
        heads = {"head_dim": wide.head_dim} | (
            {} if wide.num_kv_heads == local.num_kv_heads else {"num_key_value_heads": wide.num_kv_heads}
        )
        sections = {"local": config.local_attention, "global": wide}
        return {
            "hidden_size": config.model_dim,
            "num_hidden_layers": config.num_layers,
            "layer_types": [_NAMES[kind] for kind in config.mixers],
            "num_attention_heads": wide.num_heads,
            "num_key_value_heads": local.num_kv_heads,
            "head_dim": local.head_dim,
            "attention_k_eq_v": wide.tied_values,
            "per_layer_config": {str(i): heads for i, kind in enumerate(config.mixers) if kind == "global"},
            # What readers without `per_layer_config` know.
            "global_head_dim": wide.head_dim,
            "num_global_key_value_heads": wide.num_kv_heads if wide.tied_values else None,
            "sliding_window": config.local_attention.window if config.local_attention else 512,
            "rope_parameters": {_NAMES[kind]: _write_rope(section) for kind, section in sections.items() if section},
            "intermediate_size": dense.hidden_dim,
            "enable_moe_block": moe is not None,
            "num_experts": moe.num_experts if moe else None,
            "top_k_experts": moe.top_k if moe else None,
            "moe_intermediate_size": moe.hidden_dim if moe else None,
            "final_logit_softcapping": config.final_softcap,
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": config.norm.epsilon,
            "tie_word_embeddings": config.tied_head,
            "attention_bias": False,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "use_double_wide_mlp": False,
            "use_bidirectional_attention": None,
        }


def _read_attention(fields: Fields, kind: Mixer) -> dict[str, Any]:
    name = _NAMES[kind]
    ropes = fields.take("rope_parameters", None) or _DEFAULT_ROPES
    return {
        "num_heads": fields.take("num_attention_heads"),
        "num_kv_heads": fields.take("num_key_value_heads"),
        "head_dim": fields.take("head_dim", 256),
        "query_scale": 1.0,
        "value_norm": True,
        **_read_rope(ropes[name], f"rope_parameters.{name}"),
    }


def _read_moe(fields: Fields) -> MoEConfig | None:
    sizes = {"num_experts": "num_experts", "top_k": "top_k_experts", "hidden_dim": "moe_intermediate_size"}
    given = {ours: fields.take(theirs, None) for ours, theirs in sizes.items()}
    if not fields.take("enable_moe_block", False):
        return None
    for ours, theirs in sizes.items():
        if given[ours] is None:
            raise ValueError(f"config.json: {theirs} is missing; enable_moe_block needs it, so add the field")
    return MoEConfig(**given, activation="gelu", router_norm=True, expert_scale=True)


def _layer_kinds(layer_types: list[str] | None, num_layers: int) -> list[Mixer]:
    """Five local layers to one global, if not given; the last is always global, as transformers makes it."""
    unknown = sorted(set(layer_types or ()) - set(_KINDS))
    if unknown:
        raise ValueError(f"config.json: layer_types has {unknown[0]!r}; this stack expresses only {', '.join(_KINDS)}")
    kinds: list[Mixer] = [_KINDS[kind] for kind in layer_types or ()]
    kinds = kinds or ["global" if i % 6 == 5 else "local" for i in range(num_layers)]
    return [*kinds[:-1], "global"]


def _read_global_heads(given: Mapping[str, Any], fields: Fields, kinds: list[Mixer]) -> dict[str, Any]:
    """Width and number of the global layers' keys and values; refuses layers that differ among themselves."""
    tied = fields.take("attention_k_eq_v", False)
    heads = {"head_dim": fields.take("global_head_dim", 512)}
    num_kv_heads = fields.take("num_global_key_value_heads", None)
    if tied and num_kv_heads is not None:
        heads["num_key_value_heads"] = num_kv_heads
    if "per_layer_config" in given:
        per_layer = fields.take("per_layer_config") or {}
        at = [str(i) for i, kind in enumerate(kinds) if kind == "global"]
        heads = per_layer.get(at[0], {})
        if set(per_layer) - set(at) or any(per_layer.get(i, {}) != heads for i in at) or set(heads) - set(_HEADS):
            raise ValueError(
                f"config.json: per_layer_config is {per_layer}; this stack expresses only one head_dim and one "
                f"num_key_value_heads for all full_attention layers ({', '.join(at)}) and no other override. "
                "A model with another value cannot be imported."
            )
    return {"tied_values": tied} | {_HEADS[name]: value for name, value in heads.items()}


def _read_rope(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`proportional` turns a share of the pairs, with the frequencies that they have where all turn."""
    if given.get("rope_type") != "proportional":
        return read_rope(given, where)
    rest = {name: value for name, value in given.items() if name != "partial_rotary_factor"}
    fraction = given.get("partial_rotary_factor", 1.0)
    return read_rope(rest | {"rope_type": "linear"}, where) | {"rope_fraction": fraction}


def _write_rope(attention: AttentionConfig) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_theta": attention.rope_base}
    if attention.rope_scale != 1:
        rope |= {"rope_type": "linear", "factor": attention.rope_scale}
    if attention.rope_fraction != 1:
        rope |= {"rope_type": "proportional", "partial_rotary_factor": attention.rope_fraction}
    return {"rope_type": "default"} | rope
