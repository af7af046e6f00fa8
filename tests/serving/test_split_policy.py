"""Backbone and decoder at rates of their own: in step with the ordinary policy, fed as in training, and never late."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from data.layout import lay_out
from data.robots import transform_of
from serving.policy import Policy
from serving.split_policy import Look, SplitController, SplitPolicy
from tests.serving.observations import WIDTHS, observation
from tests.serving.split_robots import CHUNK, HORIZON, STEPS
from train.sections import Sections

pytestmark = pytest.mark.usefixtures("quick_compilation")
SEEN = [observation("arm2"), observation("arm3", 1), observation("arm3", 2)]


@pytest.fixture(scope="module")
def policy(split_checkpoint):
    return SplitPolicy(split_checkpoint, batch_size=2, seed=5)


def test_before_training_and_without_delay_it_is_the_ordinary_policy_at_the_rate_of_control(split_checkpoint):
    split, whole = (kind(split_checkpoint, batch_size=2, untrained=True) for kind in (SplitPolicy, Policy))
    chunks, looks = whole.act(SEEN), split.look(SEEN)
    for delay in range(CHUNK * STEPS):
        actions = split.decode(looks, [o.proprio + delay for o in SEEN], [delay] * len(SEEN))
        for action, chunk in zip(actions, chunks, strict=True):
            np.testing.assert_allclose(action, chunk[delay // STEPS], atol=1e-5)


def test_a_trained_decoder_answers_to_what_the_robot_feels_now_and_to_the_age_of_the_look(policy):
    look = policy.look(SEEN[:1])[0]
    now, moved, later = policy.decode([look] * 3, [SEEN[0].proprio, SEEN[0].proprio + 3, SEEN[0].proprio], [0, 0, 1])
    assert now.shape == (WIDTHS["arm2"][1],)
    assert np.abs(moved - now).max() > 1e-3
    assert np.abs(later - now).max() > 1e-3


def test_neither_half_depends_on_what_else_is_in_the_batch(split_checkpoint, policy):
    alone = SplitPolicy(split_checkpoint, batch_size=1, seed=5)
    felt, delays = [o.proprio + 1 for o in SEEN], [0, 3, 2]
    seeded = [dataclasses.replace(o, seed=i) for i, o in enumerate(SEEN)]
    for split in (alone, policy):
        looks = split.look(seeded)
        np.testing.assert_allclose(looks[2].chunk_Ca, alone.look(seeded[2:])[0].chunk_Ca, atol=1e-4)
    for ours, other in zip(alone.decode(looks, felt, delays), policy.decode(looks, felt, delays), strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-4)


def test_the_decoder_is_fed_as_training_fed_it(split_checkpoint, policy):
    """The documents of a dataset against a policy that meets the same frames one by one."""
    sections = Sections.of(to_config(split_checkpoint.config))
    source = sections.sources["arm3"]
    transform, _ = transform_of(sections.embodiments["arm3"], "arm3", [source])
    documents = source.build(
        sections.embodiments["arm3"].embodiment("arm3"), transform, policy.model.vocabulary, "train"
    )
    shape = dataclasses.replace(policy.observer.rows.shape, chunk=HORIZON, chunk_proprio=True)
    row = lay_out([documents[0]], shape)
    dataset, fed = documents.dataset, []
    decoded, policy._decoded = policy._decoded, lambda *args: (fed.append(args), decoded(*args))[1]
    proprio = dataset.column("observation.state")
    frame = tuple(dataset.frame(0, 0, source.cameras).values())
    look = policy.look([observation("arm3", images=frame, instruction=dataset.frame_task(0, 0), proprio=proprio[0])])[0]
    for step in range(3):
        policy.decode([look], [proprio[step]], [step])
    policy._decoded = decoded
    for step, (_, _, guide, delay_BKN, proprio_BKNA) in enumerate(fed):
        assert delay_BKN[0, 0, 0] == step
        np.testing.assert_allclose(proprio_BKNA[0, 0, 0], row.values["chunk_proprio"][0, step], atol=1e-6)
        np.testing.assert_allclose(guide.proprio_BKA[0, 0], row.values["proprio"][0], atol=1e-6)


def to_config(plain):
    from ml_collections import ConfigDict

    return ConfigDict(plain)


def test_what_is_left_of_a_chunk_keeps_step_with_the_next_one(policy):
    look = policy.look(SEEN[:1])[0]
    np.testing.assert_array_equal(policy.running_of(look, 2 * STEPS), look.chunk_Ca[2:])
    assert policy.running_of(look, CHUNK * STEPS) is None
    with pytest.raises(ValueError, match="delay is 3 control steps; ask after a multiple of 2, one chunk step"):
        policy.running_of(look, 3)


class FarAway:
    """A backbone that answers when it is told to; its looks carry the number of the observation they are of."""

    def __init__(self, policy):
        self.look_, self.asked, self.may_answer = policy.look(SEEN[:1])[0], [], threading.Semaphore(0)
        self.answered = threading.Semaphore(0)

    def __call__(self, seen) -> Look:
        self.asked.append(seen)
        self.may_answer.acquire()
        self.answered.release()
        return self.look_


class Recorder:
    """In place of the decoder: what it was asked for."""

    steps = STEPS

    def __init__(self):
        self.delays = []

    def running_of(self, look, delay):
        return ("left after", delay)

    def decode(self, looks, proprios, delays):
        self.delays += delays
        return [np.zeros(2)]


def finished(controller):
    """Waits for the answer that was allowed, without taking it."""
    controller._backbone._under_way[1].exception()


def test_the_controller_acts_at_every_step_and_counts_how_late_each_look_was(policy):
    far, recorder = FarAway(policy), Recorder()
    controller = SplitController(recorder, far)
    far.may_answer.release()
    controller.act(SEEN[0])  # waits for the first look, then asks no more in this step
    assert (controller.delays, recorder.delays, len(far.asked)) == ([0], [0], 1)
    controller.act(SEEN[0])
    assert len(far.asked) == 1  # not at a whole step of the chunk
    for _ in range(3):  # asked for at step 2; the old look goes on
        controller.act(SEEN[0])
    assert recorder.delays == [0, 1, 2, 3, 4]
    far.may_answer.release()
    finished(controller)
    controller.act(SEEN[0])
    assert recorder.delays[-1] == 3  # step 5 less step 2
    assert controller.delays == [0, 3]
    controller.act(SEEN[0])  # step 6: age 4 of the look of step 2
    far.may_answer.release()
    finished(controller)
    controller.close()
    assert far.asked[0].running is None
    assert [seen.running for seen in far.asked[1:]] == [("left after", 2), ("left after", 4)]


def test_what_the_backbone_refuses_is_raised_to_the_robot(policy):
    controller = SplitController(policy)
    with pytest.raises(ValueError, match="embodiment is 'arm9'"):
        controller.act(dataclasses.replace(SEEN[0], embodiment="arm9"))
    controller.close()


def test_looks_hold_no_pictures(policy):
    look = policy.look(SEEN[:1])[0]
    sizes = [x.size for x in jax.tree.leaves((look.guide, look.sample)) if hasattr(x, "size")]
    assert max(sizes) < SEEN[0].images[0].size
    assert look.observation.images == ()
