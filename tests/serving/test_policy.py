"""A policy acts in each robot's own units, shows its model what training showed it, and refuses what it cannot use."""

import dataclasses

import jax
import numpy as np
import pytest

from data.episodes import EpisodeSource
from data.layout import lay_out
from data.lerobot import LeRobotDataset
from data.robots import EpisodesConfig, transform_of
from serving.policy import Observation, Policy
from tests.data.tiny_robots import SIZE, TASKS
from tests.serving.observations import WIDTHS, observation
from tests.train.tiny_config import CHUNK, NUM_PIECES, WIDTH, robot_config
from train.build import build_phase
from train.checkpoint import Checkpoint
from train.phases import run
from train.sections import Sections

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROBOT = {"num_embodiments": 2, "chunk": CHUNK}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return robot_config(tmp_path_factory.mktemp("robots"))


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory):
    """Two steps of flow matching on both arms."""
    workdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.metrics.peak_flops", lambda: (1e9, "given"))
        run(config, workdir, build_phase)
    return Checkpoint.open(workdir / "act")


@pytest.fixture(scope="module")
def trained(checkpoint):
    return Policy(checkpoint, batch_size=2)


@pytest.fixture(scope="module")
def by_bins(checkpoint):
    """batch size -> a policy that takes the most likely bins, so that it draws no noise."""
    config = {**checkpoint.config, "models": {"policy": dict(checkpoint.config["models"]["policy"])}}
    del config["models"]["policy"]["flow"]
    config["models"]["policy"]["bins"] = {"num_bins": 8, "low": -2.0, "high": 2.0}
    other = dataclasses.replace(checkpoint, config=config)
    return lambda batch_size: Policy(other, batch_size=batch_size, untrained=True)


def test_before_training_actions_are_noise_in_the_units_of_the_robot_around_its_state(checkpoint):
    """The flow is that of standard normal actions: a chunk is its noise up to the error of the Euler steps, times the
    deviation, plus the mean, plus the joints now."""
    policy = Policy(checkpoint, batch_size=2, seed=7, untrained=True)
    seen = [observation("arm3"), observation("arm2", 1)]
    chunks = policy.act(seen)
    keys = [jax.random.fold_in(jax.random.key(7), number) for number in range(2)]
    noise_BKCA = np.stack([jax.random.normal(key, (1, CHUNK, WIDTH)) for key in keys])
    noise_BKCA = noise_BKCA * np.prod([1 - (2 * tau - 1) / (tau**2 + (1 - tau) ** 2) / 2 for tau in (1.0, 0.5)])
    for chunk, noise, o in zip(chunks, noise_BKCA[:, 0], seen, strict=True):
        width = WIDTHS[o.embodiment][1]
        actions = checkpoint.statistics[o.embodiment]["features"]["actions"]
        expected = noise[:, :width] * np.array(actions["std"]) + np.array(actions["mean"])
        expected = expected + np.array([*o.proprio[:2], 0])[:width]  # the first two actions are offsets
        assert (chunk.shape, chunk.dtype) == ((CHUNK, width), np.float32)
        np.testing.assert_allclose(chunk, expected, atol=1e-4)


def test_training_changes_what_it_does(checkpoint):
    seen = [observation("arm2"), observation("arm3", 1)]
    policies = Policy(checkpoint, batch_size=2, untrained=True), Policy.load(checkpoint.path, batch_size=2)
    for before, after in zip(*(policy.act(seen) for policy in policies), strict=True):
        assert np.abs(before - after).max() > 1e-3


def test_the_same_seed_gives_the_same_chunks_and_every_call_new_noise(checkpoint):
    first, again = (Policy(checkpoint, batch_size=2, seed=3) for _ in range(2))
    seen = [observation("arm2")]
    np.testing.assert_array_equal(chunk := first.act(seen)[0], again.act([*seen, observation("arm3")])[0])
    assert np.abs(first.act(seen)[0] - chunk).max() > 1e-2


def test_what_else_is_in_the_batch_and_how_large_it_is_changes_no_action(by_bins):
    seen = [observation("arm2"), observation("arm3", 1), observation("arm3", 2), observation("arm2", 3)]
    one_by_one, by_three = by_bins(1).act(seen), by_bins(3).act(seen)
    for single, batched, o in zip(one_by_one, by_three, seen, strict=True):
        assert single.shape == (CHUNK, WIDTHS[o.embodiment][1])
        np.testing.assert_allclose(batched, single, atol=1e-5)
    assert np.abs(one_by_one[1] - one_by_one[2]).max() > 1e-3


def test_bins_follow_the_instruction_and_are_undone_to_the_units_of_the_robot(checkpoint, by_bins):
    o = observation("arm3")
    chunk, elsewhere = by_bins(1).act([o, dataclasses.replace(o, instruction=TASKS[1])])
    assert np.abs(chunk - elsewhere).max() > 1e-2  # chosen after the instruction
    actions = checkpoint.statistics["arm3"]["features"]["actions"]
    normalised = (chunk - np.array([*o.proprio[:2], 0]) - np.array(actions["mean"])) / np.array(actions["std"])
    centres = -2 + (np.arange(8) + 0.5) * 4 / 8
    assert np.abs(normalised[..., None] - centres).min(-1).max() < 1e-4


def test_an_observation_becomes_the_row_that_training_made_of_it(config, checkpoint, trained):
    sections = Sections.of(config)
    for arm in WIDTHS:
        source: EpisodesConfig = sections.sources[arm]
        robot = sections.embodiments[arm]
        transform, _ = transform_of(robot, arm, [source])
        documents = EpisodeSource(
            LeRobotDataset(source.root), robot.embodiment(arm), trained.model.vocabulary, transform, source.form()
        )
        dataset, index = documents.dataset, 6
        episode, step = int(documents.episode_of[index]), int(documents.step_of[index])
        seen = Observation(
            images=tuple(dataset.frame(episode, step, source.form().cameras).values()),
            instruction=dataset.frame_task(episode, step),
            proprio=dataset.column("observation.state")[dataset.starts[episode] + step],
            embodiment=arm,
        )
        expected = lay_out([documents[index]], trained.observer.rows.shape)
        _, rows = trained.observer.observe([seen], 1)
        row = jax.tree.map(lambda leaf: leaf[0], rows)
        actions = {"action", "action_mask"}
        row.values.update({name: expected.values[name] for name in actions})
        jax.tree.map(np.testing.assert_array_equal, row, expected)


def test_a_plan_is_the_most_likely_codes_and_reaches_the_actions_as_numbers(checkpoint):
    config = {name: checkpoint.config[name] for name in checkpoint.config}
    planned = {"plan": "annotation.plan", "plan_length": 2, "plan_bins": 8}
    config["sources"] = {arm: source | planned for arm, source in config["sources"].items()}
    config["models"] = {"policy": config["models"]["policy"] | {"robot": {**ROBOT, "width": WIDTH + 2}}}
    config["phases"] = {"act": dict(config["phases"]["act"])}
    config["phases"]["act"]["pipeline"] = config["phases"]["act"]["pipeline"] | {"width": WIDTH + 2}
    policy = Policy(dataclasses.replace(checkpoint, config=config), batch_size=2, untrained=True)
    seen = [observation("arm3", 3), observation("arm2", 4)]
    batch = policy.planned(seen)
    model, first = policy.model.module(policy.model.params, policy.model.buffers), NUM_PIECES
    for row, o in enumerate(seen):
        slot = int(batch.values["action_slot"][row, 0])
        codes = batch.tokens[row, slot - 3 : slot - 1] - first
        likely = model.token_logits(model(batch).hidden_BTD[row, slot - 4 : slot - 2])[:, first : first + 8].argmax(-1)
        np.testing.assert_array_equal(codes, likely)
        vector = batch.values["proprio"][row, 0]
        np.testing.assert_allclose(vector[:2], (codes + 0.5) / 4 - 1, atol=1e-6)
        np.testing.assert_array_equal(vector[2 : 2 + len(o.proprio)], policy.observer.prepare(o)["proprio"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embodiment": "arm9"}, "embodiment is 'arm9'; this checkpoint knows arm2, arm3"),
        ({"proprio": np.zeros(4, "f4")}, r"proprio is \[0\. 0\. 0\. 0\.\]; arm3 has 5 finite numbers"),
        ({"proprio": np.array([0, 0, np.nan, 0, 0], "f4")}, "proprio is .*nan.*; arm3 has 5 finite numbers"),
        ({"images": ()}, "images are 0; arm3 was trained with 1"),
        ({"images": (np.zeros((8, 16, 3), np.uint8),)}, r"an image is uint8\[8, 16, 3\], the row takes uint8\[16, 16"),
        ({"images": (np.zeros((SIZE, SIZE, 3), "f4"),)}, "an image is float32"),
        (
            {"instruction": "push " * 30},
            "instruction 'push .* slots in all; rows of this checkpoint have 24; shorten it or",
        ),
    ],
)
def test_an_observation_it_cannot_use_is_refused(trained, changes, message):
    with pytest.raises(ValueError, match=message):
        trained.act([observation("arm3", **changes)])


def test_a_checkpoint_without_an_action_head_is_refused(checkpoint):
    models = {"policy": {**checkpoint.config["models"]["policy"], "flow": None}}
    headless = dataclasses.replace(checkpoint, config={**checkpoint.config, "models": models})
    with pytest.raises(ValueError, match="of phase 'act', whose model has no action head; give a phase whose"):
        Policy(headless, untrained=True)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no finished checkpoint"):
        Policy.load(tmp_path)
