"""A policy learns from a larger policy: `teacher` with objective flow, in two real phases."""

import json

import pytest

from configs.schema import parse
from tests.train.test_build import changed
from tests.train.tiny_config import robot_config
from train.build import build_phase, check
from train.config import PhaseConfig
from train.fit import check_teacher
from train.phases import run
from train.sections import Sections

pytestmark = pytest.mark.usefixtures("quick_compilation", "own_cache")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """`act` teaches `follow`, whose model is narrower."""
    config = robot_config(tmp_path_factory.mktemp("robots"))
    small = config.models.policy.to_dict()
    large = config.models.policy.to_dict() | {
        "model_dim": 2 * small["model_dim"],
        "flow": {"width": 16, "hidden_dim": 16, "num_steps": 2},
    }
    config.models = {"policy": large, "student": small}
    config.phases.follow = config.phases.act.to_dict() | {"model": "student", "teacher": "act"}
    config.train.phases = ("act", "follow")
    return config


def test_a_student_is_measured_against_its_teacher_and_against_the_demonstrations(config, tmp_path):
    check(config)
    results = run(config, tmp_path, build_phase)
    assert "loss/taught" not in results["act"]["losses"]
    assert set(results["follow"]["losses"]) >= {"loss/taught", "loss/action"}
    assert results["follow"] == json.loads((tmp_path / "follow/done.json").read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"models.policy.flow": None, "phases.act.objective": "next_token"},
            "config.phases.follow.teacher has no action expert, objective 'flow' learns from one; name a teacher that",
        ),
        (
            {"models.policy.robot.chunk": 2, "phases.act.pipeline.chunk": 2},
            "config.phases.follow.teacher has robot RobotConfig(num_embodiments=2, width=5, chunk=2), the model of",
        ),
        (
            {"models.policy.image.patch_size": 4},
            "config.phases.follow.teacher has image (16, 16, 16), the model of this phase (16, 16, 4); make them equal",
        ),
    ],
)
def test_a_teacher_that_sees_or_does_something_else_is_refused(config, changes, message):
    models = Sections.of(changed(config, changes)).models
    phase = parse(PhaseConfig, config.phases.follow.to_dict(), "config.phases.follow")
    with pytest.raises(ValueError) as error:
        check_teacher("config.phases.follow", phase, models["student"], models["policy"])
    assert str(error.value).startswith(message)


def test_the_check_before_a_run_looks_at_teachers_too(config):
    blind = changed(config, {"models.policy.flow": None, "phases.act.objective": "next_token"})
    with pytest.raises(ValueError, match=r"phases\.follow\.teacher has no action expert"):
        check(blind)
