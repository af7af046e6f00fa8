"""A policy that sees through a SigLIP encoder: trained, loaded and acting like any other, its encoder frozen."""

import jax
import numpy as np
import pytest

from configs.schema import parse
from model.config import ModelConfig
from model.model import create, split
from serving.model import LoadedModel
from tests.data.tiny_robots import SIZE
from tests.train.tiny_config import robot_config
from train.build import build_phase, check
from train.checkpoint import Checkpoint
from train.phases import run

pytestmark = pytest.mark.usefixtures("quick_compilation", "own_cache")
ENCODER = {"encoder_dim": 8, "num_layers": 2, "hidden_dim": 12, "num_heads": 2}


def siglip(**changes):
    sizes = {"height": SIZE, "width": SIZE, "patch_size": SIZE // 4, "pool": 2}
    return {"kind": "siglip", **sizes, **ENCODER, **changes}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = robot_config(tmp_path_factory.mktemp("robots"))
    config.models.policy.image = siglip()
    config.phases.act.optimizer = {**config.phases.act.optimizer, "freeze": ("^image/encoder/",)}
    return config


def test_the_encoder_stays_as_it_was_and_what_follows_it_learns(config, tmp_path):
    done = run(config, tmp_path / "run", build_phase)["act"]
    assert np.isfinite(done["losses"]["loss"])
    loaded = LoadedModel.of(Checkpoint.open(tmp_path / "run" / "act"))
    assert loaded.image_form is not None
    assert loaded.image_form.num_slots == 4
    initial = parse(ModelConfig, config.to_dict()["models"]["policy"])
    before = split(create(initial, loaded.vocabulary.size, 0))[1]["image"]
    after = loaded.params["image"]
    assert jax.tree.all(jax.tree.map(np.array_equal, before["encoder"], after["encoder"]))
    for name in ("projector", "norm"):
        assert not jax.tree.all(jax.tree.map(np.array_equal, before[name], after[name])), name


def test_slots_that_the_data_does_not_leave_are_refused(config):
    other = config.copy_and_resolve_references()
    other.models.policy.image = siglip(pool=1)
    with pytest.raises(ValueError, match=r"num_slots is 4, the model of config\.phases\.act makes 16 vectors"):
        check(other)
