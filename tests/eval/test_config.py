"""The `evaluate` section names what it cannot judge, and what it can."""

from __future__ import annotations

import pytest

from configs.schema import parse
from eval.config import EvaluateConfig, RobotConfig


@pytest.mark.parametrize(
    ("suite", "options", "message"),
    [
        ("tabletop", {"tasks": ("juggle",)}, "config.evaluate.tabletop.tasks has 'juggle'; choose of reach, push"),
        ("tabletop", {"arms": ("arm9",)}, "config.evaluate.tabletop.arms has 'arm9'; choose of arm5"),
        ("tabletop", {"conditions": ("dark",)}, "config.evaluate.tabletop.conditions has 'dark'; tabletop has normal"),
        ("tabletop", {"conditions": ()}, r"config.evaluate.tabletop.conditions is \(\); give at least one"),
        ("tabletop", {"wording": "unseen"}, "config.evaluate.tabletop.wording is 'unseen'; choose one of train, test"),
        ("tabletop", {"episodes": 0}, "config.evaluate.tabletop.episodes is 0"),
        ("tabletop", {"processes": 0}, "config.evaluate.tabletop.processes is 0"),
        ("tabletop", {"image_size": 96}, "config.evaluate.tabletop.image_size is 96; allowed: 64 to 64"),
        ("metaworld", {"tasks": ("reach",)}, "config.evaluate.metaworld.tasks has 'reach'; choose of assembly-v3"),
        ("metaworld", {"conditions": ("heavy",)}, "config.evaluate.metaworld.conditions has 'heavy'"),
    ],
)
def test_refusals_name_the_field_and_what_is_allowed(suite, options, message):
    with pytest.raises(ValueError, match=message):
        parse(EvaluateConfig, {suite: {"policy": "act", **options}}, "config.evaluate")


def test_an_evaluation_of_nothing_is_refused():
    with pytest.raises(ValueError, match="all sections are None"):
        EvaluateConfig()


def test_the_suites_that_are_given_are_judged_in_order():
    section = RobotConfig(policy="act")
    found = EvaluateConfig(aloha=section, tabletop=section).robots
    assert list(found) == ["tabletop", "aloha"]
    assert EvaluateConfig(text=None, fetch=section).robots == {"fetch": section}
