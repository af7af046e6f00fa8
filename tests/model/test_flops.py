"""FLOPs from the model definition against XLA's own count of the compiled program."""

import dataclasses

import jax
import numpy as np
import pytest

from data.batch import Batch
from model.config import (
    AttentionConfig,
    DenseConfig,
    FlowHeadConfig,
    ModelConfig,
    MoEConfig,
    RecurrentConfig,
    RobotConfig,
    SiglipConfig,
)
from model.flops import Work, acting_flops, forward_flops, train_flops, work_of
from model.model import create, join, split

T, VOCAB, D = 128, 512, 512
ATTENTION = {"num_heads": 8, "num_kv_heads": 4, "head_dim": 64}


def one_layer(mixer: str) -> ModelConfig:
    return ModelConfig(
        model_dim=D,
        num_layers=1,
        pattern=(mixer,),
        ffn=("dense",),
        local_attention=AttentionConfig(**ATTENTION, window=32) if mixer == "local" else None,
        global_attention=AttentionConfig(**ATTENTION) if mixer == "global" else None,
        recurrent=RecurrentConfig(num_states=256) if mixer == "recurrent" else None,
        dense=DenseConfig(hidden_dim=1024),
    )


def text_batch(segment_ids: np.ndarray) -> Batch:
    zeros = np.zeros(segment_ids.shape, np.int32)
    return Batch(zeros, segment_ids, zeros, zeros, zeros.astype("f4"), zeros, {}, {})


@pytest.mark.parametrize("mixer", ["local", "global", "recurrent"])
def test_forward_flops_are_within_two_percent_of_xla(mixer):
    """XLA counts every product of the dense tile, so the comparison asks for all T x T pairs."""
    config = one_layer(mixer)
    graph, params, buffers = split(jax.eval_shape(lambda: create(config, VOCAB, seed=0)))
    batch = text_batch(np.ones((1, T), np.int32))

    def forward(params, batch):
        model = join(graph, params, buffers)
        return model.token_logits(model(batch).hidden_BTD)

    counted = jax.jit(forward).lower(params, batch).compile().cost_analysis()["flops"]
    work = dataclasses.replace(work_of(batch, config), pairs={"local": T * T, "global": T * T})
    assert sum(forward_flops(config, VOCAB, work).values()) == pytest.approx(counted, rel=0.02)


def test_pairs_are_causal_windowed_and_packed():
    segment_ids = np.array([[1] * 40 + [2] * 30 + [0] * 58], np.int32)
    work = work_of(text_batch(segment_ids), dataclasses.replace(one_layer("local")))
    pairs = sum(min(t + 1, 32) for length in (40, 30) for t in range(length))
    assert work.pairs == {"local": pairs}
    assert (work.tokens, work.slots) == (70, 128)


def test_training_costs_three_forwards_and_hardware_adds_what_is_recomputed():
    config = one_layer("global")
    work = Work(tokens=T, slots=T, pairs={"global": T * (T + 1) / 2})
    parts = forward_flops(config, VOCAB, work)
    model, hardware = train_flops(config, VOCAB, work)
    assert model == 3 * sum(parts.values())
    assert hardware - model == parts["attention"] / 2 + parts["head"]
    _, rematerialised = train_flops(dataclasses.replace(config, remat="block"), VOCAB, work)
    assert rematerialised - hardware == parts["mixer"] + parts["attention"] + parts["ffn"]


def test_linear_flops_of_a_dense_layer_are_two_per_weight_and_token():
    config = one_layer("global")
    _, params, _ = split(jax.eval_shape(lambda: create(config, VOCAB, seed=0)))
    matrices = sum(p.size for p in jax.tree.leaves(params) if p.size > 10 * D)
    parts = forward_flops(config, VOCAB, Work(tokens=1, slots=1, pairs={"global": 0}))
    assert sum(parts.values()) == 2 * matrices


def test_beside_a_dense_layer_the_router_and_the_chosen_experts_are_counted():
    moe = MoEConfig(num_experts=8, top_k=2, hidden_dim=64)
    config = dataclasses.replace(one_layer("global"), ffn=("dense_moe",), moe=moe)
    work = Work(tokens=3, slots=3, pairs={"global": 0})
    assert forward_flops(config, VOCAB, work)["ffn"] == 3 * 2 * (3 * D * 1024 + 8 * D + 2 * 3 * D * 64)


def test_values_that_are_projected_as_keys_cost_no_projection_of_their_own():
    config = one_layer("global")
    tied = dataclasses.replace(config.global_attention, tied_values=True)
    work = Work(tokens=3, slots=3, pairs={"global": 6})
    saved = {
        part: flops - forward_flops(dataclasses.replace(config, global_attention=tied), VOCAB, work)[part]
        for part, flops in forward_flops(config, VOCAB, work).items()
    }
    assert saved == dict.fromkeys(saved, 0) | {"mixer": 3 * 2 * D * 4 * 64}


SIGLIP = SiglipConfig(
    "siglip", 64, 64, patch_size=8, pool=4, encoder_dim=256, num_layers=2, hidden_dim=512, num_heads=4
)


def seeing(**changes) -> ModelConfig:
    return dataclasses.replace(one_layer("global"), image=SIGLIP, scan=False, **changes)


def test_flops_of_an_image_encoder_are_within_two_percent_of_xla():
    """What a picture adds to a model."""
    graph, params, _ = split(jax.eval_shape(lambda: create(seeing(), VOCAB, seed=0)))
    pixels = np.zeros((1, 3, 64, 64, 3), np.uint8)

    def embedded(params, pixels):
        return join(graph, params, {}).image(pixels, np.dtype("float32"))

    counted = jax.jit(embedded).lower(params, pixels).compile().cost_analysis()["flops"]
    none = Work(tokens=0, slots=0, pairs={"global": 0})
    parts = forward_flops(seeing(), VOCAB, dataclasses.replace(none, images=3))
    assert sum(forward_flops(seeing(), VOCAB, none).values()) == 0
    assert sum(parts.values()) == pytest.approx(counted, rel=0.02)


def test_an_encoders_layers_are_computed_again_as_the_others_are():
    work = Work(tokens=0, slots=0, pairs={"global": 0}, images=2)
    parts = forward_flops(seeing(), VOCAB, work)
    model, hardware = train_flops(seeing(), VOCAB, work)
    assert hardware - model == parts["attention"] / 2 > 0
    _, again = train_flops(seeing(remat="block"), VOCAB, work)
    assert again - hardware == parts["mixer"] + parts["attention"] + parts["ffn"]
    assert parts["embed"] > 0


def test_an_answer_costs_a_pass_for_each_number_of_the_plan_and_the_expert_at_every_euler_step():
    """Against XLA, whose count of a loop is that of one step."""
    robot, flow = RobotConfig(num_embodiments=1, width=8, chunk=16), FlowHeadConfig(width=256, hidden_dim=512)
    config = dataclasses.replace(one_layer("global"), robot=robot, flow=flow)
    graph, params, buffers = split(jax.eval_shape(lambda: create(config, VOCAB, seed=0)))
    slots = np.array([[T - 1]], np.int32)
    values = {"proprio": np.zeros((1, 1, 8), "f4"), "embodiment": np.zeros((1, 1), np.int32), "proprio_slot": slots}
    values |= {
        "action": np.zeros((1, 1, 16, 8), "f4"),
        "action_slot": slots,
        "action_mask": np.ones((1, 1, 16, 8), bool),
    }
    batch = dataclasses.replace(text_batch(np.ones((1, T), np.int32)), values=values)
    batch = dataclasses.replace(batch, positions=np.arange(T, dtype=np.int32)[None])

    def act(params, batch):
        model = join(graph, params, buffers)
        output = model(batch, want_keys_values=True)
        prefix = model.action_prefix(output, batch.values)
        return model.flow.velocity(batch.values["action"][:, 0:1], np.ones((1, 1), "f4"), values["embodiment"], prefix)

    counted = jax.jit(act).lower(params, batch).compile().cost_analysis()["flops"]
    work = dataclasses.replace(work_of(batch, config), pairs={"global": T * T})
    parts = forward_flops(config, 0, work)
    assert sum(parts.values()) == pytest.approx(counted, rel=0.03)
    expert = parts.pop("action")
    assert acting_flops(config, work, plan_length=4) == 5 * sum(parts.values()) + 10 * expert
