"""What a model section refuses, and how patterns become layers."""

import dataclasses

import pytest

from configs.schema import parse
from model.config import (
    AttentionConfig,
    BinsHeadConfig,
    DenseConfig,
    FlowHeadConfig,
    ImageConfig,
    ModelConfig,
    MoEConfig,
    RecurrentConfig,
    RobotConfig,
)

HEADS = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
EXPERTS = {"num_experts": 4, "top_k": 2, "hidden_dim": 8}
IMAGE = {"height": 16, "width": 16, "patch_size": 8}
ROBOT = {"num_embodiments": 2, "width": 5, "chunk": 3}


def layers(**changes) -> ModelConfig:
    """Three recurrent layers with dense feed-forwards, and the changes."""
    return ModelConfig(
        **{
            "model_dim": 16,
            "num_layers": 3,
            "pattern": ("recurrent",),
            "ffn": ("dense",),
            "recurrent": RecurrentConfig(8),
            "dense": DenseConfig(8),
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        (AttentionConfig, HEADS | {"num_heads": 0}, "num_heads is 0; allowed: positive"),
        (AttentionConfig, HEADS | {"num_kv_heads": 0}, "num_kv_heads is 0; allowed: positive"),
        (AttentionConfig, HEADS | {"num_kv_heads": 3}, "num_heads is 4; allowed: a multiple of num_kv_heads (3)"),
        (AttentionConfig, HEADS | {"head_dim": 7}, "head_dim is 7; allowed: a positive even number"),
        (AttentionConfig, HEADS | {"window": 0}, "window is 0; allowed: a positive number of keys"),
        (AttentionConfig, HEADS | {"rope_base": 0.0}, "rope_base is 0.0; allowed: positive"),
        (AttentionConfig, HEADS | {"rope_scale": -1.0}, "rope_scale is -1.0; allowed: positive"),
        (AttentionConfig, HEADS | {"rope_fraction": 0.0}, "rope_fraction is 0.0; allowed: above 0, and at most 1"),
        (AttentionConfig, HEADS | {"rope_fraction": 1.5}, "rope_fraction is 1.5; allowed: above 0, and at most 1"),
        (AttentionConfig, HEADS | {"query_scale": 0.0}, "query_scale is 0.0; allowed: a positive number or None"),
        (AttentionConfig, HEADS | {"softcap": 0.0}, "softcap is 0.0; allowed: a positive number or None"),
        (RecurrentConfig, {"num_states": 0}, "num_states is 0; allowed: positive"),
        (RecurrentConfig, {"num_states": 8, "dt_min": 0.0}, "dt_min is 0.0; allowed: between 0 and dt_max (0.1)"),
        (RecurrentConfig, {"num_states": 8, "dt_min": 1.0}, "dt_min is 1.0; allowed: between 0 and dt_max (0.1)"),
        (DenseConfig, {"hidden_dim": 0}, "hidden_dim is 0; allowed: positive"),
        (MoEConfig, EXPERTS | {"num_experts": 1}, "num_experts is 1; allowed: at least 2; use a dense feed-forward"),
        (MoEConfig, EXPERTS | {"top_k": 5}, "top_k is 5; allowed: 1 .. num_experts (4)"),
        (MoEConfig, EXPERTS | {"top_k": 0}, "top_k is 0; allowed: 1 .. num_experts (4)"),
        (MoEConfig, EXPERTS | {"hidden_dim": -1}, "hidden_dim is -1; allowed: positive"),
        (MoEConfig, EXPERTS | {"shared_dim": -1}, "shared_dim is -1; allowed: 0 (none) or a positive integer"),
        (MoEConfig, EXPERTS | {"balance_loss": -1.0}, "balance_loss is -1.0; allowed: 0 (off) or positive"),
        (MoEConfig, EXPERTS | {"bias_rate": -1.0}, "bias_rate is -1.0; allowed: 0 (off) or positive"),
        (MoEConfig, EXPERTS | {"z_loss": -1.0}, "z_loss is -1.0; allowed: 0 (off) or positive"),
        (ImageConfig, IMAGE | {"width": 20}, "patch_size is 8; allowed: a divisor of height and width (16 x 20)"),
        (ImageConfig, IMAGE | {"patch_size": 0}, "patch_size is 0; allowed: positive"),
        (ImageConfig, IMAGE | {"stem_stride": 3}, "stem_stride is 3; allowed: a divisor of patch_size (8)"),
        (ImageConfig, IMAGE | {"stem_dim": 0}, "stem_dim is 0; allowed: positive"),
        (RobotConfig, ROBOT | {"num_embodiments": 0}, "num_embodiments is 0; allowed: positive"),
        (RobotConfig, ROBOT | {"width": 0}, "width is 0; allowed: positive"),
        (RobotConfig, ROBOT | {"chunk": 0}, "chunk is 0; allowed: positive"),
        (BinsHeadConfig, {"num_bins": 1}, "num_bins is 1; allowed: at least 2"),
        (BinsHeadConfig, {"low": 3.0}, "low is 3.0; allowed: below high (3.0)"),
        (FlowHeadConfig, {"width": 15, "hidden_dim": 8}, "width is 15; allowed: even"),
        (FlowHeadConfig, {"width": 16, "hidden_dim": 0}, "hidden_dim is 0; allowed: positive"),
        (FlowHeadConfig, {"width": 16, "hidden_dim": 8, "num_steps": 0}, "num_steps is 0; allowed: positive"),
    ],
)
def test_a_section_refuses_a_value_by_its_field_and_says_what_is_allowed(section, fields, message):
    with pytest.raises(ValueError) as error:
        section(**fields)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_dim": 0}, "model_dim is 0; allowed: positive"),
        ({"num_layers": 0}, "num_layers is 0; allowed: positive"),
        ({"pattern": ()}, "pattern is (); allowed: at least one of 'local', 'global', 'recurrent'"),
        ({"ffn": ()}, "ffn is (); allowed: at least one of 'dense', 'moe'"),
        ({"final_softcap": 0.0}, "final_softcap is 0.0; allowed: a positive number or None"),
        ({"recurrent": None}, "recurrent is None but the layers use 'recurrent'; give the section recurrent"),
        ({"pattern": ("global",)}, "global_attention is None but the layers use 'global'; give the section"),
        ({"ffn": ("dense", "moe")}, "moe is None but the layers use 'moe'; give the section moe"),
        ({"moe": MoEConfig(**EXPERTS)}, "moe is given but none of the 3 layers is 'moe' or 'dense_moe'; remove"),
        ({"ffn": ("dense_moe",)}, "moe is None but the layers use 'dense_moe'; give the section moe"),
        (
            {"ffn": ("dense_moe",), "moe": MoEConfig(**EXPERTS), "dense": None},
            "dense is None but the layers use 'dense_moe'; give the section dense",
        ),
        (
            {"pattern": ("recurrent",) * 3 + ("local",), "local_attention": AttentionConfig(**HEADS, window=2)},
            "local_attention is given but none of the 3 layers is 'local'; remove it",
        ),
        (
            {"pattern": ("recurrent", "local"), "local_attention": AttentionConfig(**HEADS)},
            "local_attention.window is None; a local layer needs the number of keys it sees",
        ),
        (
            {"pattern": ("recurrent", "global"), "global_attention": AttentionConfig(**HEADS, window=2)},
            "global_attention.window has no effect on global layers; remove it or use 'local' layers",
        ),
        ({"bins": BinsHeadConfig()}, "bins is given but robot is None; a head for actions needs the section robot"),
        ({"flow": FlowHeadConfig(8, 8)}, "flow is given but robot is None; a head for actions needs the section robot"),
        (
            {"flow": FlowHeadConfig(8, 8), "robot": RobotConfig(**ROBOT)},
            "flow attends to keys and values, but no layer is 'local' or 'global'; add one to pattern",
        ),
    ],
)
def test_a_model_refuses_sections_that_do_not_go_together(changes, message):
    with pytest.raises(ValueError) as error:
        layers(**changes)
    assert str(error.value).startswith(message)


def test_a_config_file_learns_the_full_path_of_the_field():
    section = {
        "model_dim": 16,
        "num_layers": 2,
        "pattern": ["recurrent"],
        "ffn": ["moe"],
        "recurrent": {"num_states": 8},
        "moe": EXPERTS | {"top_k": 9},
    }
    with pytest.raises(ValueError, match=r"^config\.models\.big\.moe\.top_k is 9; allowed: 1 \.\. num_experts \(4\)"):
        parse(ModelConfig, section, "config.models.big")


def test_patterns_are_repeated_and_truncated_to_the_number_of_layers():
    attention = AttentionConfig(**HEADS, window=4)
    config = layers(
        num_layers=7,
        pattern=("recurrent", "local"),
        ffn=("dense", "dense", "moe"),
        local_attention=attention,
        moe=MoEConfig(**EXPERTS),
    )
    assert config.mixers == ("recurrent", "local", "recurrent", "local", "recurrent", "local", "recurrent")
    assert config.feed_forwards == ("dense", "dense", "moe", "dense", "dense", "moe", "dense")
    assert config.period == 6
    assert config.attention("local") is attention


def test_a_section_that_only_the_truncated_end_of_a_pattern_needs_is_not_asked_for():
    assert layers(num_layers=2, pattern=("recurrent", "recurrent", "global")).mixers == ("recurrent", "recurrent")


def test_patches_are_counted_along_both_sides_of_an_image():
    assert ImageConfig(height=16, width=24, patch_size=8).num_patches == 6
    assert dataclasses.replace(ImageConfig(height=16, width=24, patch_size=8), patch_size=4).num_patches == 24
