"""What is said of a student beside its teacher follows from episodes and from the configs of the models."""

import pytest

from benchmarks.distilled_policy import compared
from configs import demo, distilled_policy
from configs.schema import parse
from model.config import ModelConfig
from model.flops import Work, acting_flops


def records(*successes):
    return [{"id": str(i), "success": success} for i, success in enumerate(successes)]


def test_a_student_is_compared_in_rate_cost_and_pairs():
    found = compared(
        {
            "teacher": records(True, True, False, True),
            "student": records(True, True, True, False),
            "hard": records(False, True, False, False),
        },
        {"teacher": 8e6, "student": 2e6, "hard": 2e6},
    )
    assert found["success_over_teacher"] == 1
    assert found["flops_over_teacher"] == 0.25
    assert found["policies"]["hard"]["successes"] == 1
    assert found["student_minus"]["teacher"]["difference"] == 0
    assert found["student_minus"]["hard"]["difference"] == 0.5


def test_the_student_costs_less_than_a_quarter_of_its_teacher():
    models = distilled_policy.get_config().models.to_dict()
    small, large = (parse(ModelConfig, models[name], name) for name in ("small", "large"))
    pairs = {"local": 700.0, "global": 700.0}
    work = Work(tokens=36, slots=38, pairs=pairs, images=1, vectors=1, chunks=1, chunk_pairs=8 * 44.0)
    cost = [acting_flops(model, work, demo.PLAN) for model in (small, large)]
    assert 4 * cost[0] < cost[1]


def test_the_student_without_a_teacher_is_the_same_model_on_the_same_budget():
    taught, hard = (distilled_policy.get_config(variant) for variant in ("", "hard"))
    for name in ("distil", "follow"):
        ours, theirs = (config.phases[name].to_dict() for config in (taught, hard))
        apart = {field for field in ours if ours[field] != theirs[field]}
        assert apart <= {"objective", "teacher"}
        assert taught.models[ours["model"]] == hard.models[theirs["model"]]
    with pytest.raises(ValueError, match="has no variant 'soft'; choose hard"):
        distilled_policy.get_config("soft")
