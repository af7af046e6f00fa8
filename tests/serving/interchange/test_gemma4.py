"""What a Gemma 4 config may say, and what is refused by its name."""

import dataclasses
import json

import pytest

from serving.interchange.gemma4 import Gemma4Text
from tests.serving.interchange.test_files import REFERENCES

DENSE, MOE, TIED = (
    json.loads((REFERENCES / name / "config.json").read_text())
    for name in ("gemma4_dense", "gemma4_moe", "gemma4_tied_values")
)
READ, WRITE = Gemma4Text().read_config, Gemma4Text().write_config
PER_LAYER = {"2": {"head_dim": 16}, "5": {"head_dim": 16}}


def without(fields, *names):
    return {name: value for name, value in fields.items() if name not in names}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hidden_size_per_layer_input": 256}, "hidden_size_per_layer_input is 256"),
        ({"num_kv_shared_layers": 2}, "num_kv_shared_layers is 2"),
        ({"use_double_wide_mlp": True}, "use_double_wide_mlp is True"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention is 'all'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
        ({"layer_types": ["linear_attention"] * 6}, "layer_types has 'linear_attention'"),
        ({"enable_moe_block": True}, "num_experts is missing"),
        ({"per_layer_config": PER_LAYER | {"5": {"head_dim": 8}}}, "per_layer_config is"),
        ({"per_layer_config": PER_LAYER | {"0": {"head_dim": 16}}}, "per_layer_config is"),
        ({"per_layer_config": {i: {"intermediate_size": 8} for i in PER_LAYER}}, "per_layer_config is"),
        ({"num_altup_inputs": 4}, "num_altup_inputs is not understood"),
    ],
)
def test_what_this_stack_cannot_express_is_refused_by_its_name(changes, field):
    with pytest.raises(ValueError, match=f"^config.json: {field}"):
        READ(DENSE | changes)


def test_per_layer_inputs_are_what_a_config_means_that_does_not_mention_them():
    with pytest.raises(ValueError, match="hidden_size_per_layer_input is 256"):
        READ(without(DENSE, "hidden_size_per_layer_input"))


@pytest.mark.parametrize("kind", ["sliding_attention", "full_attention"])
def test_a_rope_of_another_type_is_refused(kind):
    ropes = DENSE["rope_parameters"] | {kind: {"rope_type": "yarn", "rope_theta": 1e4}}
    with pytest.raises(ValueError, match="rope_type is 'yarn'"):
        READ(DENSE | {"rope_parameters": ropes})


@pytest.mark.parametrize("fields", [DENSE, MOE, TIED])
def test_released_configs_say_the_same_in_fields_of_their_own(fields):
    released = without(fields, "per_layer_config", "rope_parameters") | {"global_head_dim": 16}
    released["num_global_key_value_heads"] = 1 if fields is TIED else None
    assert READ(released) == READ(fields)


def test_global_layers_have_their_own_number_of_keys_only_where_these_are_values_too():
    """As transformers reads it."""
    other = without(DENSE, "per_layer_config") | {"global_head_dim": 16, "num_global_key_value_heads": 1}
    assert READ(other) == READ(DENSE)
    assert READ(other | {"attention_k_eq_v": True}).attention("global").num_kv_heads == 1


@pytest.mark.parametrize("nothing", [{}, None])
def test_without_an_override_all_layers_have_the_same_heads(nothing):
    """What transformers writes where the widths are equal."""
    config = READ(DENSE | {"per_layer_config": nothing})
    assert (config.attention("global").head_dim, config.attention("global").num_kv_heads) == (8, 2)
    assert READ(WRITE(config)) == config


def test_the_last_layer_is_global_whatever_the_config_says():
    only_local = DENSE | {"layer_types": ["sliding_attention"] * 6, "per_layer_config": {}}
    assert READ(only_local).mixers == ("local",) * 5 + ("global",)
    assert READ(without(DENSE, "layer_types", "per_layer_config")).mixers == ("local",) * 5 + ("global",)


def test_a_model_that_ends_in_a_local_layer_is_not_written():
    config = dataclasses.replace(READ(DENSE), num_layers=5)
    with pytest.raises(ValueError, match="last layer is 'global'"):
        WRITE(config)


def test_scaled_positions_and_untied_heads_come_back():
    config = READ(MOE)
    local, wide = config.attention("local"), config.attention("global")
    assert (local.rope_fraction, wide.rope_fraction) == (1, 0.25)
    config = dataclasses.replace(
        config,
        local_attention=dataclasses.replace(local, rope_scale=4.0),
        global_attention=dataclasses.replace(wide, rope_scale=8.0, num_kv_heads=4),
        tied_head=False,
        final_softcap=None,
    )
    assert READ(WRITE(config)) == config
