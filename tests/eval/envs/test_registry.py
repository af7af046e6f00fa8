"""Simulated robots by name: what may be asked for, and what is said where something is missing."""

import re
import sys

import pytest

from eval.envs import registry
from eval.envs.registry import SUITES, check, make
from eval.envs.tabletop import Tabletop
from eval.envs.wordings import aloha, fetch, metaworld, ogbench


def test_the_tabletop_comes_with_every_arm_and_task():
    env = make("tabletop", "push", "arm6", wording="test")
    world = Tabletop("arm6", "push", "test")
    env.reset(3)
    world.reset(3)
    assert (env.embodiment, env.task, env.instruction) == ("arm6", "push", world.instruction)
    assert (env.max_steps, env.control_hz, env.cameras) == (world.max_steps, 10, ("front",))
    assert (env.observe().images["front"] == world.observe()["image"]).all()
    assert make("tabletop", "reach").embodiment == SUITES["tabletop"].robots[0] == "arm5"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"suite": "libero", "task": "a"}, "suite 'libero' is not known; choose from tabletop, metaworld"),
        ({"suite": "fetch", "task": "reach-v3"}, "task 'reach-v3' is not known; choose from reach, push"),
        ({"suite": "tabletop", "task": "push", "robot": "arm9"}, "robot 'arm9' is not known; choose from arm5, arm6"),
        ({"suite": "fetch", "task": "push", "wording": "dev"}, "wording 'dev' is not known; choose from train, test"),
        ({"suite": "aloha", "task": "insertion", "cameras": ["side"]}, "camera 'side' is not known; choose from top"),
        ({"suite": "tabletop", "task": "push", "image_size": 96}, "image_size=96: pictures of tabletop have 64 to 64"),
        ({"suite": "fetch", "task": "push", "image_size": 8}, "image_size=8"),
    ],
)
def test_unknown_names_are_refused_with_those_allowed(request_, message):
    with pytest.raises(ValueError, match=message):
        make(**request_)


@pytest.mark.parametrize("suite", [name for name in SUITES if name != "tabletop"])
def test_a_missing_package_is_named_with_the_remedy(suite, monkeypatch):
    package = {"metaworld": "metaworld", "ogbench": "ogbench", "fetch": "gymnasium_robotics", "aloha": "gym_aloha"}[
        suite
    ]
    for name in [name for name in sys.modules if name.split(".")[0] == package] + [f"eval.envs.{suite}"]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("gymnasium", "dm_control", package):  # some of them may be missing here already
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"suite '{suite}' needs the package '.*', .*pip install '\.\[sim\]'"):
        make(suite, SUITES[suite].tasks[0])


def test_what_is_allowed_can_be_asked_without_loading_a_package():
    assert check("metaworld", ["push-v3"], ["sawyer"], "test", ["wrist"], 128) is SUITES["metaworld"]
    assert len(SUITES["metaworld"].tasks) == 50
    assert set(registry.SUITES) == {"tabletop", "metaworld", "ogbench", "fetch", "aloha"}


@pytest.mark.parametrize("suite", [metaworld, ogbench, fetch, aloha], ids=lambda module: module.__name__.split(".")[-1])
def test_held_out_wordings_are_new_sentences_made_of_training_words(suite):
    words = lambda sentence: set(re.findall(r"\w+", sentence))  # noqa: E731
    known = set().union(*(words(s) for wordings in suite.WORDINGS.values() for s in wordings["train"]))
    for task, wordings in suite.WORDINGS.items():
        assert len(set(wordings["train"])) == len(wordings["train"]) >= 3, task
        assert len(wordings["test"]) >= 1, task
        for sentence in wordings["test"]:
            assert sentence not in wordings["train"]
            assert words(sentence) <= known, (task, words(sentence) - known)


def test_no_two_tasks_of_meta_world_are_told_the_same():
    sentences = [s for wordings in metaworld.WORDINGS.values() for some in wordings.values() for s in some]
    assert len(set(sentences)) == len(sentences) == 200


def test_the_tasks_of_meta_world_are_the_packages_own():
    package = pytest.importorskip("metaworld")
    assert set(metaworld.WORDINGS) == set(package.ALL_V3_ENVIRONMENTS)
