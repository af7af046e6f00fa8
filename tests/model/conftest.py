"""The small model that the model's tests share."""

import pytest

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


@pytest.fixture
def hybrid() -> ModelConfig:
    """Every mixer, both feed-forwards, images, proprioception and both action heads."""
    return ModelConfig(
        model_dim=32,
        num_layers=7,
        pattern=("recurrent", "local", "global"),
        ffn=("dense", "moe", "dense"),
        local_attention=AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=8, window=5),
        global_attention=AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=8, rope_base=1e6, sink=True),
        recurrent=RecurrentConfig(num_states=16),
        dense=DenseConfig(hidden_dim=48),
        moe=MoEConfig(num_experts=4, top_k=2, hidden_dim=24, shared_dim=16),
        image=ImageConfig(height=16, width=16, patch_size=8, stem_dim=8),
        robot=RobotConfig(num_embodiments=2, width=5, chunk=3),
        bins=BinsHeadConfig(num_bins=16),
        flow=FlowHeadConfig(width=16, hidden_dim=32, num_steps=4),
    )
