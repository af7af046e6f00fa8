"""Steps for devices that are not there are those of the loop."""

import copy
from typing import Any

import jax
import pytest

from tests.sharding.plan.two_layers import config as small
from tests.train.tiny_config import text_config
from train.ahead import abstract_step, load_of
from train.build import build_phase
from train.config import PhaseConfig
from train.optimizer import build_optimizer
from train.step import TrainState


def described(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)


def test_state_and_batch_are_those_of_a_real_phase(tmp_path, own_cache):
    config = text_config(tmp_path)
    built = build_phase(config, "teach", None)
    params, buffers = built.init()
    step = abstract_step(config, "teach", jax.devices()[:1])
    assert isinstance(step.phase, PhaseConfig)
    optimizer = build_optimizer(step.phase.optimizer, 3, params, built.axes)
    state = TrainState.create(params, buffers, optimizer, ema=True)
    assert described(step.state) == described(state)
    assert described(step.batch) == described(built.place(next(built.pipeline.iterator(0, 0, 1))))
    assert step.num_parameters == sum(x.size for x in jax.tree.leaves(params))
    held = {"parameters": params, "optimiser": state.opt_state, "average": state.ema}
    for name, part in held.items():
        assert step.argument_bytes[name] == sum(x.nbytes for x in jax.tree.leaves(part)), name


def test_the_step_is_lowered_with_nothing_allocated():
    step = abstract_step(small(), "teach", jax.devices()[:1])
    text = step.lower().as_text()
    assert "tensor<512x64xf32>" in text  # the table


def test_flops_are_those_of_rows_that_one_document_fills():
    """64 slots attend to 64 * 65 / 2 pairs, in two layers of 4 heads of 16, three times as much with the gradient."""
    step = abstract_step(small(), "teach", jax.devices()[:1])
    layer = 2 * (64 * 16 * (4 + 2 * 2) + 4 * 16 * 64 + 3 * 64 * 256)
    linear = 2 * layer + 2 * 64 * 512
    assert step.model_flops == 8 * 3 * (64 * linear + 2 * (64 * 65 / 2) * 4 * 4 * 16)
    assert step.hardware_flops > step.model_flops


def test_the_load_of_a_step_is_its_parameters_with_their_axes():
    load = load_of(small(fsdp=64), "teach")  # whatever the mesh
    assert ((512, 64), ("vocab", "embed")) in load.parameters
    assert load.state_bytes == pytest.approx(12, rel=1e-4)
    assert (load.rows, load.slots, load.width, load.layers, load.hidden) == (8, 64, 64, 2, 256)
    assert (load.kv_width, load.routed) == (2 * 2 * 2 * 16, 0)


def changed(path, value):
    config = copy.deepcopy(small())
    section: Any = config
    *sections, field = path.split(".")
    for name in sections:
        section = section[name]
    section[field] = value
    return config


@pytest.mark.parametrize(
    ("config", "phase", "message"),
    [
        (small(), "learn", r"--phase is 'learn'; config.phases has teach"),
        (
            changed("phases.teach.teacher", "path:somewhere"),
            "teach",
            r"phases.teach.teacher is set; .* None for a lower",
        ),
        (changed("phases.teach.lora", {"rank": 2}), "teach", r"phases.teach"),
        (changed("vocabulary", {"path": "none.model"}), "teach", r"vocabulary.path is 'none.model', where no file is"),
        (changed("mesh", {"fsdp": 3}), "teach", r"mesh: fsdp=3"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(config, phase, message):
    with pytest.raises(ValueError, match=message):
        abstract_step(config, phase, jax.devices()[:1])
