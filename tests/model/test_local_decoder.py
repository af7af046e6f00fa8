"""The local decoder: what it begins as, what it reads, and that robots and moments do not mix."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.config import (
    AttentionConfig,
    BinsHeadConfig,
    DenseConfig,
    LocalDecoderConfig,
    ModelConfig,
    RobotConfig,
)
from model.flops import Work, forward_flops
from model.heads.chunks import guide_of, predicted_chunks
from model.heads.local_decoder import Guide, LocalDecoder
from model.init import Init
from tests.model.weights import random_like

pytestmark = pytest.mark.usefixtures("quick_compilation")
D, C, A, N = 6, 3, 2, 8
CONFIG = LocalDecoderConfig(width=8, hidden_dim=6, steps=2)
ROBOT = RobotConfig(num_embodiments=2, width=A, chunk=C)
DELAY = jnp.broadcast_to(jnp.arange(N), (1, 2, N))


def normal(seed, *shape):
    return jnp.array(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def guide():
    return Guide(normal(0, 1, 2, C, A), normal(1, 1, 2, D), normal(2, 1, 2, A), jnp.array([[0, 1]]))


@pytest.fixture(scope="module")
def trained():
    made = lambda: LocalDecoder(Init(jax.random.key(0)), CONFIG, ROBOT, D)  # noqa: E731
    graph, state = nnx.split(jax.eval_shape(made))
    return nnx.merge(graph, random_like(state, std=0.4))


def test_before_training_it_plays_the_chunk_back_at_the_rate_of_control(guide):
    """Two control steps for each of the chunk's three, and its last action for ever after."""
    decoder = LocalDecoder(Init(jax.random.key(0)), CONFIG, ROBOT, D)
    found = decoder(guide, DELAY, normal(3, 1, 2, N, A))
    np.testing.assert_array_equal(found, guide.chunk_BKCA[:, :, [0, 0, 1, 1, 2, 2, 2, 2]])


def test_a_moment_depends_on_itself_alone_so_that_training_on_all_is_acting_at_one(guide, trained):
    felt = normal(3, 1, 2, N, A)
    together = trained(guide, DELAY, felt)
    for n in range(N):
        alone = trained(guide, DELAY[:, :, n : n + 1], felt[:, :, n : n + 1])
        np.testing.assert_allclose(alone[:, :, 0], together[:, :, n], atol=1e-5)


@pytest.mark.parametrize("name", ["chunk_BKCA", "hidden_BKD", "proprio_BKA", "felt", "delay"])
def test_it_reads_its_guide_the_delay_and_what_the_robot_feels_now(guide, trained, name):
    felt, delay = normal(3, 1, 2, 1, A), jnp.full((1, 2, 1), 2)
    before = trained(guide, delay, felt)
    if name == "felt":
        after = trained(guide, delay, felt.at[0, 1].add(1))
    elif name == "delay":
        after = trained(guide, delay.at[0, 1].add(1), felt)
    else:
        changed = getattr(guide, name).at[0, 1].add(1)
        after = trained(dataclasses.replace(guide, **{name: changed}), delay, felt)
    assert np.abs(after - before)[0, 1].max() > 1e-2
    np.testing.assert_array_equal(after[0, 0], before[0, 0])  # nor does one look mix with another


def test_each_robot_has_its_own_maps(guide, trained):
    felt = normal(3, 1, 2, N, A)
    swapped = dataclasses.replace(guide, embodiment_BK=1 - guide.embodiment_BK)
    assert np.abs(trained(swapped, DELAY, felt) - trained(guide, DELAY, felt)).max() > 1e-2


def test_its_flops_are_within_a_tenth_of_xla():
    """Of one look and 64 moments; XLA counts activations and sums besides."""
    robot = RobotConfig(num_embodiments=2, width=8, chunk=32)
    config = LocalDecoderConfig(width=64, hidden_dim=96, steps=2)
    graph, state = nnx.split(jax.eval_shape(lambda: LocalDecoder(Init(jax.random.key(0)), config, robot, 48)))
    shapes = {"chunk_BKCA": (1, 1, 32, 8), "hidden_BKD": (1, 1, 48), "proprio_BKA": (1, 1, 8)}
    guide = Guide(**{n: jnp.zeros(s) for n, s in shapes.items()}, embodiment_BK=jnp.zeros((1, 1), int))
    args = (state, guide, jnp.zeros((1, 1, 64), int), jnp.zeros((1, 1, 64, 8)))
    decode = jax.jit(lambda state, *rest: nnx.merge(graph, state)(*rest))
    counted = decode.lower(*args).compile().cost_analysis()["flops"]
    attention = AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=4)
    model = ModelConfig(
        model_dim=48,
        num_layers=1,
        pattern=("global",),
        ffn=("dense",),
        global_attention=attention,
        dense=DenseConfig(8),
        robot=robot,
        bins=BinsHeadConfig(num_bins=4),
    )
    work = Work(tokens=0, slots=0, pairs={"global": 0}, chunks=1, moments=64)
    with_it, without = (
        sum(forward_flops(m, 8, work).values()) for m in (dataclasses.replace(model, local_decoder=config), model)
    )
    assert with_it - without == pytest.approx(counted, rel=0.1)


def test_a_predicted_chunk_is_zero_in_dims_that_the_robot_lacks():
    class Binned:
        class bins:
            config = BinsHeadConfig()

            @staticmethod
            def predict(hidden_BKD):
                return jnp.broadcast_to(hidden_BKD[:, :, None, :A], (*hidden_BKD.shape[:2], C, A))

    @dataclasses.dataclass
    class Given:
        hidden_BTD: jax.Array

    mask = jnp.ones((1, 2, N, A), bool).at[0, 0, :, 1].set(False).at[0, 1, 3:].set(False)
    values = {"action_mask": mask, "action_slot": jnp.array([[4, 1]]), "proprio": normal(1, 1, 2, A)}
    values["embodiment"] = jnp.array([[0, 1]])
    output = Given(normal(4, 1, 5, D))
    chunk = predicted_chunks(Binned(), output, values, "bins")
    expected = np.asarray(output.hidden_BTD)[0, [4, 1]][:, None, :A] * np.array([[1, 0], [1, 1]])[:, None]
    np.testing.assert_allclose(chunk[0], np.broadcast_to(expected, (2, C, A)))
    np.testing.assert_array_equal(
        guide_of(output, values, chunk).hidden_BKD[0], output.hidden_BTD[0, jnp.array([4, 1])]
    )
