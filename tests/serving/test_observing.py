"""Goals behind a policy: rows as training made them, and refusals of goals that training did not show."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from data.layout import lay_out
from data.lerobot import LeRobotDataset
from serving.observing import Observation, Observer
from serving.policy import Policy
from tests.data.tiny_robots import FRONT, SIZE, TASKS
from tests.train.tiny_config import robot_config
from train.build import build_phase
from train.checkpoint import Checkpoint
from train.sections import Sections

pytestmark = pytest.mark.usefixtures("quick_compilation")
PIXELS = np.zeros((SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = robot_config(tmp_path_factory.mktemp("robots"))
    config.phases["act"].pipeline.update({"slots": 32, "images": 2})
    for arm in ("arm2", "arm3"):
        config.sources[arm].update({"goal": "both", "goal_dropout": 0.8})
    return config


@pytest.fixture(scope="module")
def checkpoint(config):
    """What the phase keeps beside its weights, which stay as initialised."""
    kept = build_phase(config, "act", None).assets
    meta = {"phase": "act", "step": 0}
    return Checkpoint(pathlib.Path("act"), meta, kept.config, kept.statistics, kept.transforms, kept.vocabulary)


@pytest.fixture(scope="module")
def policy(checkpoint):
    return Policy(checkpoint, untrained=True)


def other_goal(checkpoint, **source) -> Checkpoint:
    sources = {arm: {**section, **source} for arm, section in checkpoint.config["sources"].items()}
    return dataclasses.replace(checkpoint, config={**checkpoint.config, "sources": sources})


def told(instruction: str = TASKS[0], goal: tuple[np.ndarray, ...] = (PIXELS,)) -> Observation:
    return Observation((PIXELS,), instruction, np.zeros(4, "f4"), "arm2", goal)


def test_goals_are_laid_out_as_training_laid_them_out(config, policy):
    """Words alone, pictures alone, and both, whichever a document of training shows."""
    sections = Sections.of(config)
    source, robot = sections.sources["arm2"], sections.embodiments["arm2"].embodiment("arm2")
    documents = source.build(robot, policy.observer.transforms["arm2"], policy.model.vocabulary)
    dataset, seen = LeRobotDataset(source.root), set()
    for index, document in enumerate(documents):
        episode, step = int(documents.episode_of[index]), int(documents.step_of[index])
        pictures = {later: dataset.frame(episode, later, [FRONT])[FRONT] for later in range(5 - episode)}
        expected = lay_out([document], policy.observer.rows.shape)
        goal = [p for p in pictures.values() if np.array_equal(p, expected.media["image"][1])]
        tokens = expected.tokens[expected.kinds == 1]
        words = policy.model.vocabulary.encode(f" {dataset.frame_task(episode, step)}")
        says = set(words) <= set(tokens.tolist())
        seen.add((says, len(goal)))
        state = dataset.column("observation.state")[dataset.starts[episode] + step]
        instruction = dataset.frame_task(episode, step) if says else ""
        _, rows = policy.observer.observe([Observation((pictures[step],), instruction, state, "arm2", tuple(goal))], 1)
        row = jax.tree.map(lambda leaf: leaf[0], rows)
        row.values.update({name: expected.values[name] for name in ("action", "action_mask")})
        jax.tree.map(np.testing.assert_array_equal, row, expected)
    assert seen == {(True, 0), (False, 1), (True, 1)}


def test_another_goal_changes_what_actions_are_predicted_from(policy):
    observer, model = policy.observer, policy.model.module(policy.model.params, policy.model.buffers)
    seen = [told("", (np.full_like(PIXELS, shade),)) for shade in (0, 200)]
    _, rows = observer.observe(seen, 2)
    hidden_BTD, slot_B1 = jax.jit(lambda rows: model(rows).hidden_BTD)(rows), rows.values["action_slot"]
    first, second = (hidden_BTD[row, slot_B1[row, 0]] for row in range(2))
    assert np.abs(first - second).max() > 1e-2


def test_a_robot_without_cameras_acts_on_what_it_feels(checkpoint):
    blind = other_goal(checkpoint, cameras=(), goal="language", goal_dropout=0.0)
    phase = {**blind.config["phases"]["act"]}
    phase["pipeline"] = {**phase["pipeline"], "images": 0, "image_size": (0, 0)}
    model = {**blind.config["models"]["policy"], "flow": None, "bins": {"num_bins": 8}}
    config = {**blind.config, "models": {"policy": model}, "phases": {"act": phase}}
    with_cameras = dataclasses.replace(
        checkpoint, config={**checkpoint.config, "models": {"policy": model | {"image": None}}}
    )
    with pytest.raises(ValueError, match="its sources have cameras, but its model takes no images"):
        Policy(with_cameras, untrained=True)
    config["models"] = {"policy": model | {"image": None}}
    policy = Policy(dataclasses.replace(blind, config=config), untrained=True)
    felt = [dataclasses.replace(told(goal=()), images=(), proprio=np.full(4, x, "f4")) for x in (0, 9)]
    first, second = policy.act(felt)
    assert first.shape == (3, 2)
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize(
    ("source", "observation", "message"),
    [
        ({"goal": "language", "goal_dropout": 0.0}, told(), "goal has 1 pictures; arm2 was trained with words alone"),
        ({"goal": "image", "goal_dropout": 0.0}, told(goal=()), "goal has no picture; arm2 was trained with one from"),
        ({"goal_dropout": 0.0}, told(goal=()), "goal has no picture"),
        ({"goal_dropout": 0.0}, told(""), "instruction is empty; arm2 was trained with words and pictures together"),
        ({}, told("", ()), "goal has no picture"),
        ({}, told(goal=(PIXELS, PIXELS)), "goal has 2 pictures; arm2 was trained with 1"),
        ({}, told(goal=(PIXELS[:8],)), r"an image is uint8\[8, 16, 3\], the row takes"),
    ],
)
def test_goals_that_training_did_not_show_are_refused(checkpoint, policy, source, observation, message):
    observer = Observer(other_goal(checkpoint, **source), policy.model)
    with pytest.raises(ValueError, match=message):
        observer.observe([observation], 1)
