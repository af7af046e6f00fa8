"""A parameter's value is a function of the seed and its path, and of nothing else."""

import dataclasses

import jax
import numpy as np
import pytest

from model.config import AttentionConfig, BinsHeadConfig, DenseConfig, ModelConfig, RobotConfig
from model.init import Init, fan_in, normal
from model.model import create, split

D = 8


def value(init: Init, name: str = "kernel"):
    return init.value(name, (3, 4), normal(1.0))


def test_a_value_depends_on_seed_and_path_and_not_on_what_was_created_before():
    init = Init(jax.random.key(0))
    first = value(init / "a" / "b")
    value(init / "c")
    np.testing.assert_array_equal(first, value(Init(jax.random.key(0)) / "a" / "b"))
    for other in (value(init / "b"), value(init / "a" / "b", "bias"), value(Init(jax.random.key(1)) / "a" / "b")):
        assert np.abs(first - other).max() > 0.1


def test_stacked_layers_hold_what_each_layer_would_hold_alone():
    init = Init(jax.random.key(0)) / "stack"
    stacked = value(init.stacked((0, 2, 4)) / "ffn")
    for row, layer in zip(stacked, (0, 2, 4), strict=True):
        np.testing.assert_array_equal(row, value(init.at(layer) / "ffn"))
    assert np.abs(stacked[0] - stacked[1]).max() > 0.1


def test_a_stacked_parameter_names_its_leading_axis():
    init = Init(jax.random.key(0))
    assert init.param("w", (3, 4), ("embed", "mlp"), normal(1.0)).get_metadata("axes") == ("embed", "mlp")
    stacked = init.stacked((0, 1)).param("w", (3, 4), ("embed", "mlp"), normal(1.0))
    assert (stacked.shape, stacked.get_metadata("axes")) == ((2, 3, 4), ("layers", "embed", "mlp"))


def test_a_head_more_leaves_every_other_parameter_of_a_model_as_it_was():
    plain = ModelConfig(
        model_dim=D,
        num_layers=1,
        pattern=("global",),
        ffn=("dense",),
        global_attention=AttentionConfig(2, 2, 4),
        dense=DenseConfig(D),
        robot=RobotConfig(1, 2, 2),
    )
    heads = dataclasses.replace(plain, bins=BinsHeadConfig(4), tied_head=False)
    _, before, _ = split(create(plain, 16, seed=3))
    _, after, _ = split(create(heads, 16, seed=3))
    assert set(after) - set(before) == {"bins", "token_head"}
    jax.tree.map(np.testing.assert_array_equal, before, {name: after[name] for name in before})


@pytest.mark.parametrize("gain", [1.0, 0.1])
def test_fan_in_keeps_the_variance_of_a_sum_over_inputs(gain):
    kernel = np.asarray(fan_in(64, gain)(jax.random.key(0), (64, 4096)))
    np.testing.assert_allclose(kernel.std(), gain / 8, rtol=0.01)
    np.testing.assert_allclose(kernel.mean(), 0, atol=gain / 8 * 0.01)
    assert np.abs(kernel).max() <= 2 * gain / 8 / 0.8796  # truncated at two deviations of the normal it is cut from
