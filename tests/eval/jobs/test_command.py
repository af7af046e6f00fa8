"""The command line: which command is meant, which section is judged, and mistakes in one line."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from configs.command import read
from eval.__main__ import ROBOT_SUITES, _suite
from eval.config import RobotConfig, completed
from eval.envs.registry import SUITES
from eval.jobs.command import section_of

ROOT = pathlib.Path(__file__).parents[3]


def test_every_suite_of_robots_is_known_before_anything_is_imported():
    assert tuple(SUITES) == ROBOT_SUITES
    code = "import sys, eval.__main__; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_processes_that_simulate_load_no_jax():
    code = (
        "import sys, pickle; from eval.jobs.suites import Views, stage_of; from eval.jobs.processes import Simulator;"
        "stage = pickle.loads(pickle.dumps(stage_of(Views('tabletop', 'test', {}, {}), 4, 0)));"
        "Simulator(stage)._stage.make('reach', 'arm5', 'light'); sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("arguments", "suite"),
    [
        (["--config", "c.py", "--suite", "tabletop"], "tabletop"),
        (["--suite=arc,bbh", "--out", "x"], "arc,bbh"),
        (["--config", "suite"], None),
        (["--suite"], ""),
    ],
)
def test_the_suite_is_found_wherever_it_stands(arguments, suite):
    assert _suite(arguments) == suite


def test_the_section_of_the_suite_is_judged_or_its_defaults_with_the_last_phase():
    section = {"policy": "act", "tasks": ("reach",), "episodes": 7}
    config = ConfigDict({"train": {"phases": ("see", "act")}, "evaluate": {"tabletop": section}})
    assert section_of(config, "tabletop") == RobotConfig(policy="act", tasks=("reach",), episodes=7)
    assert section_of(config, "metaworld") == RobotConfig(policy="act")
    del config["evaluate"]
    assert section_of(config, "fetch") == RobotConfig(policy="act")


def test_a_mistake_on_the_command_line_is_named_before_anything_is_opened():
    config = read("configs/demo.py", ["--config.evaluate.tabletop.tasks=('juggle',)"], completed)
    message = "config.evaluate.tabletop.tasks has 'juggle'; choose of reach, push, lift, stack, sort"
    with pytest.raises(ValueError, match=message):
        section_of(config, "tabletop")
