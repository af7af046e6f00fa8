"""The regression head by NumPy, its FLOPs by XLA, and which codes of a vocabulary are numbers in order."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import AttentionConfig, DenseConfig, L1HeadConfig, ModelConfig, RobotConfig
from model.embedders.text import TokenEmbedder, number_features
from model.flops import Work, forward_flops
from model.heads.l1 import L1Head
from model.init import Init

D, F, E, C, A = 6, 8, 2, 3, 4
ROBOT = RobotConfig(num_embodiments=E, width=A, chunk=C)


@pytest.fixture(scope="module")
def head():
    return L1Head(Init(jax.random.key(0)), L1HeadConfig(hidden_dim=F), ROBOT, D)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def test_a_chunk_follows_from_hidden_state_and_the_robots_own_state_and_output(head):
    rng = np.random.default_rng(0)
    hidden, proprio = rng.normal(size=(2, 3, D)).astype("f4"), rng.normal(size=(2, 3, A)).astype("f4")
    embodiment = np.array([[0, 1, 1], [1, 0, 0]])
    found = jax.jit(head.predict)(hidden, proprio, embodiment)
    assert (found.shape, found.dtype) == ((2, 3, C, A), jnp.float32)
    weights = {name: np.asarray(getattr(head, name)[...], "f8") for name in ("gate", "up", "out")}
    state = np.asarray(head.state.kernel[...], "f8"), np.asarray(head.state.bias[...], "f8")
    for b, k in np.ndindex(2, 3):
        e = embodiment[b, k]
        x = hidden[b, k] + proprio[b, k] @ state[0][e] + state[1][e]
        x = x / np.sqrt(np.mean(x**2) + 1e-6)
        y = gelu(x @ weights["gate"]) * (x @ weights["up"])
        np.testing.assert_allclose(found[b, k], np.einsum("f,fca->ca", y, weights["out"][e]), atol=1e-5)


def test_flops_of_the_head_are_those_of_its_products(head):
    counted = jax.jit(head.predict).lower(jnp.zeros((5, 1, D)), jnp.zeros((5, 1, A)), jnp.zeros((5, 1), int))
    config = ModelConfig(
        D, 1, ("global",), ("dense",), global_attention=AttentionConfig(1, 1, 2), dense=DenseConfig(2), robot=ROBOT,
        l1=L1HeadConfig(F),
    )  # fmt: skip
    ours = forward_flops(config, 8, Work(tokens=0, slots=0, pairs={"global": 0}, chunks=5))["action"]
    products = counted.as_text().count("dot_general")
    assert products == 6  # state, its choice, gate, up, out, its choice
    assert ours == 5 * 2 * (E * A * D + 2 * D * F + F * E * C * A)


def test_only_the_codes_that_are_numbers_share_a_smooth_part():
    embedder = TokenEmbedder(Init(jax.random.key(0)), 20, D, scale=False, num_codes=8, num_other=4)
    table_VD, smooth = np.asarray(embedder.table[...]), number_features(8) @ np.asarray(embedder.smooth[...])
    np.testing.assert_array_equal(table_VD[8:16], 0)
    np.testing.assert_allclose(embedder.weights()[8:16], smooth, atol=1e-6)
    for rows in (slice(0, 8), slice(16, 20)):
        assert np.abs(table_VD[rows]).min() > 0
        np.testing.assert_array_equal(embedder.weights()[rows], table_VD[rows])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"l1": L1HeadConfig(4)}, "l1 is given but robot is None"),
        ({"num_other_codes": 3}, "num_other_codes has no effect where num_codes is 0"),
        ({"num_other_codes": -1}, "num_other_codes is -1; allowed: 0 or more"),
    ],
)
def test_models_that_cannot_work_are_refused(changes, message):
    sections = {"global_attention": AttentionConfig(1, 1, 2), "dense": DenseConfig(2)}
    with pytest.raises(ValueError, match=message):
        ModelConfig(4, 1, ("global",), ("dense",), **sections, **changes)


def test_an_l1_head_has_a_width():
    with pytest.raises(ValueError, match="hidden_dim is 0; allowed: positive numbers"):
        L1HeadConfig(0)
