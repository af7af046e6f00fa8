"""Robots of different sizes in one batch: no padding among action tokens, and none that reaches loss or gradient."""

import dataclasses

import jax
import numpy as np
import pytest

from data.batch import KINDS
from model.model import create, join, split
from tests.train.tiny_config import CHUNK, WIDTH, robot_config
from train.build import build_phase
from train.objectives import flow
from train.sections import Sections

pytestmark = pytest.mark.usefixtures("quick_compilation", "own_cache")
WIDTHS = {0: (4, 2), 1: (5, 3)}  # proprioception and actions of each embodiment in `robot_config`


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = robot_config(tmp_path_factory.mktemp("robots"))
    config.models.policy.update({"num_layers": 1, "pattern": ("global",)})  # compiles sooner
    del config.models.policy["recurrent"]
    return config


@pytest.fixture(scope="module")
def mixed(config):
    """A batch of both arms, one example a row."""
    batch = build_phase(config, "act", None).assets.example_batch
    assert set(batch.values["embodiment"][:, 0].tolist()) == {0, 1}
    return batch


def test_action_tokens_are_as_many_as_the_robot_has_actions(config):
    """Four rows: 2 chunk steps of 2 actions are 4 tokens, of 3 actions 6; none stands for an action there is not."""
    tokens = config.copy_and_resolve_references()
    for source in tokens.sources.values():
        source.update({"continuous": False, "token_steps": (0, 2), "num_bins": 16})
    tokens.phases.act.objective, tokens.phases.act.pipeline.slots = "next_token", 32
    batch = build_phase(tokens, "act", None).assets.example_batch
    kind = KINDS.index("action")
    seen = set()
    for row in range(4):
        embodiment = int(batch.values["embodiment"][row, 0])
        assert (batch.kinds[row] == kind).sum() == 2 * WIDTHS[embodiment][1]
        seen.add(embodiment)
    assert seen == {0, 1}


def test_numbers_are_padded_to_the_widest_and_the_padding_is_masked(mixed):
    for row in range(len(mixed.tokens)):
        proprio, action = WIDTHS[int(mixed.values["embodiment"][row, 0])]
        assert mixed.values["proprio"].shape[-1] == mixed.values["action"].shape[-1] == WIDTH
        assert (mixed.values["proprio"][row, 0, proprio:] == 0).all()
        assert (mixed.values["proprio"][row, 0, :proprio] != 0).all()
        mask_CA = mixed.values["action_mask"][row, 0]
        assert not mask_CA[:, action:].any()
        assert mask_CA[0, :action].all()
        assert mask_CA.shape == (CHUNK, WIDTH)


def test_padded_actions_reach_neither_the_loss_nor_a_gradient(config, mixed):
    sections = Sections.of(config)
    graph, params, buffers = split(create(sections.models["policy"], 512, 0))
    # The head's last weights begin at zero, which would hide what reaches the others.
    params["flow"]["out"] = params["flow"]["out"] + 0.1
    garbage = np.where(mixed.values["action_mask"], mixed.values["action"], 1e6).astype("f4")
    spoiled = dataclasses.replace(mixed, values=mixed.values | {"action": garbage})

    def total(params, batch):
        return flow.loss(join(graph, params, buffers), batch, jax.random.key(0), options=flow.Options()).total

    both = jax.jit(jax.value_and_grad(total))
    value, gradient = both(params, mixed)
    assert value == both(params, spoiled)[0]
    out_EWA = np.asarray(gradient["flow"]["out"])
    for embodiment, (_, action) in WIDTHS.items():
        assert np.abs(out_EWA[embodiment, :, :action]).max(axis=0).min() > 0
        assert (out_EWA[embodiment, :, action:] == 0).all()
