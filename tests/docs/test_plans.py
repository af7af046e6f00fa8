"""The page of plans is what the plans say."""

import pathlib

import pytest

from docs.plans import FOLDER, PLANS, made, name_of, render

ROOT = pathlib.Path(__file__).parents[2]


def test_the_page_is_what_the_command_writes():
    assert (ROOT / "docs/plans.md").read_text() == render(), "run `python -m docs.plans > docs/plans.md`"


@pytest.mark.parametrize("config", PLANS)
def test_every_planned_config_can_be_read(config):
    from configs.command import load

    plain: dict = load(str(ROOT / config)).to_dict()
    assert set(plain["train"]["phases"]) == set(plain["phases"])


def test_committed_plans_fit_their_machines():
    for config, plan in made().items():
        assert plan.topology == PLANS[config], config
        assert plan.memory.fits, config
        assert (FOLDER / f"{name_of(config)}.png").is_file(), config
