"""What a mesh cannot be given is refused by the field, before data are read or anything is compiled."""

import dataclasses

import pytest
from jax.sharding import AbstractMesh

from configs.schema import parse
from data.config import PipelineConfig
from docs.support import REFUSALS
from model.config import ModelConfig
from sharding.mesh import AXES, MeshConfig
from tests.train.test_build import changed
from tests.train.tiny_config import text_config
from train.build import check
from train.config import PhaseConfig
from train.mesh_fit import check_mesh, stated_sizes
from train.rollout.config import RolloutConfig


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return text_config(tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize(("changes", "answer"), REFUSALS)
def test_sizes_that_an_axis_does_not_divide_are_refused_with_the_remedy(config, changes, answer):
    with pytest.raises(ValueError) as error:
        check(changed(config, changes))
    assert str(error.value) == answer


@pytest.fixture
def parts(config):
    """A phase of six rows of 24 slots, and a model of two heads and three experts."""
    plain = config.to_dict()
    phase = plain["phases"]["teach"] | {"pipeline": {"batch_size": 6, "slots": 24}}
    model = plain["models"]["teacher"] | {"global_attention": {"num_heads": 2, "num_kv_heads": 2, "head_dim": 8}}
    return parse(PhaseConfig, phase, "phase"), parse(ModelConfig, model, "model")


@pytest.mark.parametrize(
    "sizes", [{"data": 2}, {"data": 1, "context": 3}, {"data": 1, "tensor": 2}, {"data": -1, "expert": 3}]
)
def test_sizes_that_fit_are_accepted(parts, sizes):
    check_mesh("here", *parts, stated_sizes(MeshConfig(**sizes)))


def test_an_axis_that_takes_the_rest_is_checked_once_the_devices_are_known(parts):
    mesh = MeshConfig()
    check_mesh("here", *parts, stated_sizes(mesh))
    with pytest.raises(ValueError, match=r"here.pipeline.batch_size is 6, but .* = 8 devices"):
        check_mesh("here", *parts, AbstractMesh(mesh.shape(8), AXES).shape)


def test_answers_that_are_drawn_at_once_are_rows_too(parts):
    phase, model = parts
    rollout, pipeline = RolloutConfig(samples=4, prompt_slots=20, num_tokens=4), PipelineConfig(batch_size=8, slots=24)
    phase = dataclasses.replace(phase, objective="bond", rollout=rollout, pipeline=pipeline)
    check_mesh("here", phase, model, stated_sizes(MeshConfig(data=4)))
    with pytest.raises(ValueError, match=r"for which 4 answers of the policy are drawn .* a multiple of 16, or"):
        check_mesh("here", phase, model, stated_sizes(MeshConfig(data=8)))
