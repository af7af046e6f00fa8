"""Imitation through the local decoder and clean prefixes: closed forms, what is not trained, and refusals."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.layout import RowShape, collate, lay_out
from data.robots import transform_of
from model.config import (
    AttentionConfig,
    BinsHeadConfig,
    DenseConfig,
    FlowHeadConfig,
    LocalDecoderConfig,
    ModelConfig,
    RobotConfig,
)
from model.heads.chunks import guide_of, predicted_chunks
from model.model import join
from tests.model.documents import VOCAB, pack, robot_document
from tests.model.weights import random_states
from tests.serving.split_robots import CHUNK, HORIZON, STEPS, split_config
from tests.train.tiny_config import WIDTH
from train.build import check
from train.objectives import flow, local_decoder
from train.sections import Sections

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
ATTENTION = AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=4)
MODEL = ModelConfig(
    model_dim=8,
    num_layers=1,
    pattern=("global",),
    ffn=("dense",),
    global_attention=ATTENTION,
    dense=DenseConfig(8),
    robot=RobotConfig(num_embodiments=2, width=5, chunk=3),
    bins=BinsHeadConfig(num_bins=4),
    local_decoder=LocalDecoderConfig(width=8, hidden_dim=8),
)


@pytest.fixture(scope="module")
def batch():
    """Two documents; the second robot has four dims, and its last step is past the episode's end."""
    rng = np.random.default_rng(0)
    packed = pack([robot_document(rng, length, i + 1) for i, length in enumerate((9, 12))], num_slots=24)
    mask = packed.values["action_mask"].copy()
    mask[0, 1, 2], mask[0, 1, :, 4] = False, False
    felt = rng.normal(size=mask.shape).astype("f4")
    return dataclasses.replace(packed, media={}, values=packed.values | {"action_mask": mask, "chunk_proprio": felt})


@pytest.fixture(scope="module")
def states():
    return random_states(MODEL, VOCAB, std=0.3)


def test_the_loss_is_the_mean_error_of_every_delay_over_the_actions_that_exist(batch, states):
    graph, *weights = states
    loss = jax.jit(lambda *s: local_decoder.loss(join(graph, *s), batch, KEY))(*weights)
    values = batch.values

    @jax.jit
    def looked(params, buffers):
        model = join(graph, params, buffers)
        output = model(batch)
        return guide_of(output, values, predicted_chunks(model, output, values, "bins"))

    @jax.jit
    def decoded(params, buffers, guide, delay, felt):
        return join(graph, params, buffers).local_decoder(guide, delay, felt)

    guide = looked(*weights)
    total = planned = count = 0.0
    for k in range(2):
        for d in range(3):  # one moment at a time, as a robot asks
            delay, felt = jnp.full((1, 3, 1), d), values["chunk_proprio"][:, :, d : d + 1]
            action, exists = values["action"][0, k, d], values["action_mask"][0, k, d]
            found = decoded(*weights, guide, delay, felt)[0, k, 0]
            total += np.abs(found - action)[exists].sum()
            planned += np.abs(guide.chunk_BKCA[0, k, d] - action)[exists].sum()
            count += exists.sum()
    assert count == loss.weight == 3 * 5 + 2 * 4
    np.testing.assert_allclose(loss.total, total, rtol=1e-4)
    np.testing.assert_allclose(loss.metrics["error/planned"][0], planned, rtol=1e-4)


def test_the_chunk_is_not_trained_through(batch, states):
    graph, params, buffers = states
    gradient = jax.jit(jax.grad(lambda p: local_decoder.loss(join(graph, p, buffers), batch, KEY).total))(params)
    assert not np.any(gradient["bins"]["kernel"])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["local_decoder"]))
    assert np.any(gradient["stack"]["repeated"]["0"]["ffn"]["down"])  # the latent is, unless it is frozen


@dataclasses.dataclass(frozen=True)
class WithVelocity:
    """A model whose velocity is the given function of noisy chunks and flow times."""

    field: Any
    config: FlowHeadConfig

    def __call__(self, batch, *, want_keys_values):
        return dataclasses.replace(_Output(), router=())

    def action_prefix(self, output, values):
        from model.heads.flow import Prefix

        index = jnp.zeros(values["action_slot"].shape)
        return Prefix((), index[..., None], index[..., None], index, index, index)

    @property
    def flow(self):
        return self

    def velocity(self, noisy_BKCA, tau, embodiment_BK, prefix):
        return self.field(noisy_BKCA, tau)


@dataclasses.dataclass(frozen=True)
class _Output:
    router: tuple = ()


def test_a_clean_prefix_is_shown_as_it_is_at_time_0_and_only_the_rest_is_learned(batch):
    most, samples, seen = 2, 64, {}
    action = np.repeat(batch.values["action"], samples, axis=1)
    exists = np.repeat(batch.values["action_mask"] & (batch.values["action_slot"] >= 0)[..., None, None], samples, 1)

    def field(noisy, tau):
        seen.update(noisy=np.asarray(noisy), tau=np.asarray(tau))
        return jnp.zeros_like(noisy)

    model = WithVelocity(field, FlowHeadConfig(width=2, hidden_dim=1, prefix=most))
    loss = flow.loss(model, batch, KEY, options=flow.Options(samples=samples))
    clean = seen["tau"] == 0
    length = clean.sum(-1)
    np.testing.assert_array_equal(clean, np.arange(3) < length[..., None])  # a prefix, not any steps
    assert sorted(set(length.ravel().tolist())) == [0, 1, 2]
    np.testing.assert_array_equal(
        seen["noisy"][clean & exists.any(-1)], np.where(exists, action, 0)[clean & exists.any(-1)]
    )
    learned = exists & ~clean[..., None]
    noise = jax.random.normal(jax.random.split(KEY)[0], action.shape)
    assert loss.weight == learned.sum()
    np.testing.assert_allclose(loss.total, ((noise - action)[learned] ** 2).sum(), rtol=1e-4)


def test_prefix_lengths_are_uniform():
    length = np.asarray(flow.clean_prefixes(KEY, (4000, 1, 5), 3)).sum(-1)
    counts = np.bincount(length.ravel(), minlength=5)
    assert counts[4] == 0
    assert (np.abs(counts[:4] - 1000) < 5 * np.sqrt(1000)).all()


def test_documents_bring_what_the_robot_feels_at_each_step_of_the_chunk(tmp_path):
    sections = Sections.of(split_config(tmp_path))
    source, robot = sections.sources["arm3"], sections.embodiments["arm3"]
    transform, _ = transform_of(robot, "arm3", [source])
    documents = source.build(robot.embodiment("arm3"), transform, sections.vocabulary.build(), "train")
    felt = transform({"proprio": documents.dataset.column("observation.state")})["proprio"]
    shape = RowShape(24, 1, (16, 16), 1, HORIZON, WIDTH, chunk_proprio=True)
    row = lay_out([documents[2]], shape)  # frame 2 of an episode of 5
    np.testing.assert_allclose(row.values["chunk_proprio"][0], felt[[2, 3, 4, 4, 4]], atol=1e-6)
    assert row.values["action_mask"][0, :, 0].tolist() == [True] * 3 + [False] * 2
    assert collate([row, lay_out([], shape)]).values["chunk_proprio"].shape == (2, 1, HORIZON, WIDTH)
    with pytest.raises(ValueError, match=r"an action chunk has proprio None; with chunk_proprio the row takes one"):
        lay_out([(*documents[2][:-1], dataclasses.replace(documents[2][-1], proprio=None))], shape)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("models.policy.local_decoder", None, "objective is 'local_decoder', its model has none; give config.models"),
        ("models.policy.flow", None, "local_decoder corrects chunks, but flow, bins and l1 are all None"),
        ("models.policy.flow.prefix", CHUNK, rf"flow.prefix is {CHUNK}, a chunk has {CHUNK} actions; leave one"),
        ("phases.act.pipeline.chunk_proprio", False, "pipeline.chunk_proprio is False, a local decoder needs it; set"),
        ("phases.act.pipeline.chunk", CHUNK * STEPS + 1, r"is 9 control steps, the chunks of its model last 8 \("),
    ],
)
def test_sections_that_do_not_go_together_are_refused(tmp_path, path, value, message):
    config = split_config(tmp_path)
    *sections, field = path.split(".")
    section = config
    for name in sections:
        section = section[name]
    section[field] = value
    with pytest.raises(ValueError, match=message):
        check(config)
