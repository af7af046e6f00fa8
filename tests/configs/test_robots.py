from typing import Any

import pytest

from configs import robots
from configs.command import read
from eval.config import completed as evaluated
from train.build import check
from train.phases import read_sections
from train.sections import completed

CONFIG = robots.__file__


def examples(phase, robot: str) -> float:
    """Shares of the rows times steps: how much a robot is seen."""
    return (
        phase.steps
        * sum(share for name, share in phase.mixture.items() if name.startswith(robot))
        / sum(phase.mixture.values())
    )


@pytest.mark.parametrize("robot", list(robots.ROBOTS))
def test_one_robot_alone_sees_as_many_examples_of_it_as_the_mixture_does(robot):
    together, alone = (read_sections(read(name, (), completed))[1] for name in (CONFIG, f"{CONFIG}:{robot}"))
    for phase in ("see", "act"):
        assert examples(alone[phase], robot) == pytest.approx(examples(together[phase], robot), abs=1)
        assert (alone[phase].pipeline, alone[phase].model) == (together[phase].pipeline, together[phase].model)


def test_the_config_can_be_trained_and_judged():
    check(read(CONFIG, (), completed))
    sections: Any = read(CONFIG, (), evaluated).evaluate
    assert sections.metaworld.episodes == 20
    assert len(sections.metaworld.tasks) == 10
    for suite in ("metaworld", "fetch", "tabletop"):
        assert sections[suite].conditions == ("normal",)


def test_another_variant_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="choose of sawyer, fetch, arm7"):
        robots.get_config("ur5e")
