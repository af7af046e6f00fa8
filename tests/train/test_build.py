"""From a config to phases that run: what is refused before anything is read, and two real phases from text."""

import json

import jax
import numpy as np
import pytest

from serving.model import LoadedModel
from tests.train.tiny_config import NUM_PIECES, robot_config, text_config
from train.build import build_phase, check
from train.checkpoint import Checkpoint
from train.phases import run
from train.sections import Sections

pytestmark = pytest.mark.usefixtures("quick_compilation", "own_cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def robots(folder):
    return robot_config(folder)


def changed(config, changes):
    """A copy with the values at dotted paths replaced."""
    config = config.copy_and_resolve_references()
    for path, value in changes.items():
        *sections, last = path.split(".")
        section = config
        for name in sections:
            section = section[name]
        section[last] = value
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"embodiments.arm3.index": 2},
            "config.embodiments have the indices [0, 2]; give each its own, counted",
        ),
        ({"embodiments.arm3.index": 0}, "config.embodiments have the indices [0, 0]; give each its own"),
        ({"sources.arm2.embodiment": "arm9"}, "config.sources.arm2.embodiment is 'arm9'; config.embodiments has arm2"),
        ({"models.policy.depth": 2}, "config.models.policy.depth = 2 (int) is not a known field"),
        ({"models.policy.flow.num_steps": 0}, "config.models.policy.flow.num_steps is 0; allowed: positive"),
        ({"sources.arm2.kind": "video"}, "config.sources.arm2 is"),
        ({"mesh.data": 0}, "config.mesh.data is 0; it must be a positive number of devices"),
        ({"seed": "zero"}, "config.seed is 'zero'; it must be an int"),
    ],
)
def test_sections_that_cannot_be_built_are_refused_by_their_path(robots, changes, message):
    with pytest.raises(ValueError) as error:
        Sections.of(changed(robots, changes))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"phases.act.pipeline.image_size": (16, 8)},
            "config.phases.act.pipeline.image_size is (16, 8), its model takes (16, 16); make them equal",
        ),
        (
            {"models.policy.image": None},
            "config.phases.act.pipeline.image_size is (16, 16), its model takes no images; make them equal, or set",
        ),
        (
            {"phases.act.pipeline.width": 6},
            "config.phases.act.pipeline width and chunk are (6, 3), its model has (5, 3); make them equal",
        ),
        (
            {"phases.act.pipeline.chunk": 2},
            "config.phases.act.pipeline width and chunk are (5, 2), its model has (5, 3); make them equal",
        ),
        (
            {"models.policy.robot": None, "models.policy.flow": None},
            "config.phases.act.pipeline.vectors is 1, its model takes none; give it `robot`",
        ),
        (
            {"models.policy.robot.num_embodiments": 3},
            "config.phases.act.model has robot.num_embodiments 3, config.embodiments has 2; make them equal",
        ),
        (
            {"models.policy.num_codes": 5},
            "config.phases.act.model has num_codes 5, config.vocabulary 16; make them equal, or 0 where codes are no",
        ),
        (
            {"models.policy.flow": None},
            "config.phases.act.objective is 'flow', its model has no such head; give config.models.policy the section",
        ),
        ({"phases.act.pipeline.chunk": 0}, "config.phases.act.pipeline.chunk is 0, objective 'flow' needs actions"),
        (
            {"sources.arm3.num_slots": 9},
            "config.sources.arm3.num_slots is 9, the model of config.phases.act makes 4 vectors of an image; make them",
        ),
        (
            {"sources.arm3.chunk": 2},
            "config.sources.arm3.chunk is 2, config.phases.act.pipeline.chunk is 3; make them equal",
        ),
        (
            {"phases.act.options": {"alpha": 0.5}},
            "config.phases.act.options.alpha is 0.5 and weighs a teacher, of which there is none; name a teacher or",
        ),
        ({"phases.act.options": {"draws": 2}}, "config.phases.act.options.draws = 2 (int) is not a known field"),
        ({"phases.act.options": {"samples": 0}}, "config.phases.act.options.samples is 0; allowed: at least 1"),
        (
            {"phases.act.objective": "next_token", "phases.act.options": {"samples": 2}},
            "config.phases.act.options are {'samples': 2}; objective 'next_token' has none, remove them",
        ),
    ],
)
def test_a_phase_whose_parts_do_not_fit_is_refused_by_the_field(robots, changes, message):
    config = changed(robots, changes)
    for refuse in (lambda: check(config), lambda: build_phase(config, "act", None)):
        with pytest.raises(ValueError) as error:
            refuse()
        assert str(error.value).startswith(message)


def test_a_config_that_works_is_accepted(robots):
    check(robots)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Both text phases, three steps each."""
    workdir = tmp_path_factory.mktemp("run")
    config = text_config(tmp_path_factory.mktemp("text"))
    return config, workdir, run(config, workdir, build_phase)


def test_two_phases_train_from_text_and_leave_their_reports(finished):
    _, workdir, results = finished
    assert list(results) == ["teach", "learn"]
    for name, result in results.items():
        assert json.loads((workdir / name / "done.json").read_text()) == result
        assert result["steps"] == 3
        assert 0 < result["tokens"] <= 3 * 2 * 24
        for figures in (result["losses"], result["evaluation"]):
            assert 2 < figures["loss/text"] < 2 * np.log(NUM_PIECES)  # nats, around those of a uniform guess


def test_the_final_checkpoint_opens_as_the_model_that_was_trained(finished):
    config, workdir, _ = finished
    for name, kind in (("teach", "teacher"), ("learn", "student")):
        checkpoint = Checkpoint.open(workdir / name)
        loaded = LoadedModel.of(checkpoint)
        assert loaded.config == Sections.of(config).models[kind]
        assert loaded.vocabulary.size == NUM_PIECES
        assert loaded.phase["objective"] == config.phases[name].objective
        batch = checkpoint.example_batch
        hidden = jax.jit(lambda p, b, batch, loaded=loaded: loaded.module(p, b)(batch).hidden_BTD)
        assert np.isfinite(hidden(loaded.params, loaded.buffers, batch)).all()
        initial = LoadedModel.of(checkpoint, untrained=True)
        assert jax.tree.structure(initial.params) == jax.tree.structure(loaded.params)
        moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), initial.params, loaded.params)
        assert max(jax.tree.leaves(moved)) > 1e-3


def test_averaged_weights_are_what_is_loaded_where_a_phase_keeps_them(finished):
    checkpoint = Checkpoint.open(finished[1] / "teach")
    loaded = LoadedModel.of(checkpoint)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, checkpoint.ema)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), checkpoint.ema, checkpoint.params)
    assert max(jax.tree.leaves(moved)) > 0


def test_balancing_biases_moved_and_travel_in_the_checkpoint(finished):
    biases = jax.tree.leaves(Checkpoint.open(finished[1] / "teach").buffers)
    assert len(biases) == 2  # one for each position of the pattern
    assert np.isin(np.round(np.abs(np.concatenate(biases)) / 0.01).ravel(), [0, 1, 2, 3]).all()
    assert np.abs(np.concatenate(biases)).max() > 0


def test_the_teachers_weights_are_constants_of_the_student_step(finished):
    config, workdir, _ = finished
    teacher = Checkpoint.open(workdir / "teach")
    phase = build_phase(config, "learn", teacher)
    params, buffers = phase.constants
    jax.tree.map(np.testing.assert_array_equal, params, teacher.ema)
    jax.tree.map(np.testing.assert_array_equal, buffers, teacher.buffers)


def test_every_embodiment_of_the_config_gets_its_own_transform_and_statistics(robots):
    assets = build_phase(robots, "act", None).assets
    assert set(assets.transforms) == set(assets.statistics) == {"arm2", "arm3"}
    for arm, width in (("arm2", 2), ("arm3", 3)):
        assert assets.statistics[arm]["embodiment"] == arm
        assert len(assets.statistics[arm]["features"]["actions"]["mean"]) == width
    batch = assets.example_batch
    assert batch.values["action"].shape == (4, 1, 3, 5)
    assert set(batch.values["embodiment"].ravel().tolist()) <= {0, 1}
