"""The queue counts what was really carried out; chunks go on from the running one in the robot's own units."""

import dataclasses
import threading

import numpy as np
import pytest

from serving.policy import Observation, Policy
from serving.real_time import ChunkQueue, RealTimeController, RealTimePolicy
from serving.split_policy import SplitPolicy
from tests.serving.observations import WIDTHS, observation
from tests.serving.split_robots import CHUNK

pytestmark = pytest.mark.usefixtures("quick_compilation")
HOLD = np.array([-1.0])


def chunk(first: int, length: int = 6) -> np.ndarray:
    """Actions that say which control step they are for."""
    return np.arange(first, first + length, dtype="f4")[:, None]


def test_actions_that_were_carried_out_while_a_chunk_was_computed_are_left_out_of_it():
    queue, done = ChunkQueue(), []
    queue.put(chunk(0), asked=0)
    for late in (2, 0, 3):
        asked = queue.step
        done += [queue.next(HOLD)[0] for _ in range(late)]
        queue.put(chunk(asked), asked)
        done.append(queue.next(HOLD)[0])
    assert done == list(range(len(done)))  # every action at its own step, whatever the latency
    assert queue.delays == [0, 2, 0, 3]
    assert queue.starved == 0


def test_what_is_left_of_the_running_chunk_is_what_comes_next():
    queue = ChunkQueue()
    assert queue.running() is None
    queue.put(chunk(0, 3), asked=0)
    queue.next(HOLD)
    assert queue.running()[:, 0].tolist() == [1, 2]


def test_without_an_action_the_robot_holds_and_it_is_counted():
    queue = ChunkQueue()
    assert queue.next(HOLD) is HOLD
    queue.put(chunk(0, 2), asked=0)
    assert [queue.next(HOLD)[0] for _ in range(3)] == [1, -1, -1]
    assert (queue.step, queue.starved) == (4, 3)


def test_a_chunk_that_comes_too_late_does_not_replace_the_running_one():
    queue = ChunkQueue()
    queue.put(chunk(0, 9), asked=0)
    for _ in range(4):
        queue.next(HOLD)
    assert not queue.put(chunk(1, 3), asked=1)
    assert queue.next(HOLD)[0] == 4
    with pytest.raises(ValueError, match=r"asked is control step 7; it must lie in 0\.\.5"):
        queue.put(chunk(7), asked=7)


class Late:
    """A policy that answers when it may; its chunks say which control step each action is for, as far as it knows."""

    def __init__(self):
        self.asked, self.may_answer = [], threading.Semaphore(0)

    def act(self, observations):
        self.asked.append(observations[0])
        self.may_answer.acquire()
        return [chunk(int(observations[0].proprio[0]))]


def test_the_controller_never_waits_and_asks_with_what_is_left():
    policy = Late()
    controller, done = RealTimeController(policy), []

    def act():
        at = controller.queue.step
        done.append(controller.act(Observation((), "", np.array([at], "f4"), "arm"), HOLD)[0])

    def answered():
        policy.may_answer.release()
        controller._policy._under_way[1].exception()  # waits for it, without taking it

    for _ in range(2):
        act()
    answered()  # the chunk of step 0
    for _ in range(3):
        act()
    answered()  # that of step 2
    act()
    answered()
    controller.close()
    assert done == [-1, -1, 2, 3, 4, 5]
    assert (controller.queue.delays, controller.queue.starved) == ([2, 3], 2)
    assert policy.asked[0].running is None
    assert [o.running[:, 0].tolist() for o in policy.asked[1:]] == [[2, 3, 4, 5], [5, 6, 7]]


@pytest.mark.parametrize("method", ["guided", "prefix", None])
def test_without_a_running_chunk_it_is_the_ordinary_policy(split_checkpoint, method):
    seen = [observation("arm2"), observation("arm3", 1)]
    expected = Policy(split_checkpoint, batch_size=2, seed=5).act(seen)
    found = RealTimePolicy(split_checkpoint, batch_size=2, seed=5, delay=2, method=method).act(seen)
    for ours, plain in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-4)


def test_a_clean_prefix_is_what_is_carried_out_meanwhile_though_the_robot_has_moved(split_checkpoint):
    policy = RealTimePolicy(split_checkpoint, batch_size=2, delay=2, method="prefix")
    seen = [observation("arm2"), observation("arm3", 1)]
    seen = [dataclasses.replace(o, running=running(o)) for o in seen]
    for found, o in zip(policy.act(seen), seen, strict=True):
        np.testing.assert_allclose(found[:2], o.running[:2], rtol=1e-5, atol=1e-4)
        assert np.abs(found[2] - o.running[2]).max() > 1e-2


def test_guidance_draws_a_chunk_towards_the_running_one_as_far_as_there_is_one(split_checkpoint):
    plain, guided = (
        RealTimePolicy(split_checkpoint, batch_size=1, seed=2, delay=1, method=m) for m in (None, "guided")
    )
    o = observation("arm3", 1)
    o = dataclasses.replace(o, running=running(o)[:2])
    off = [np.abs(policy.act([o])[0][:2] - o.running) for policy in (plain, guided)]
    assert off[1][0].mean() < 0.7 * off[0][0].mean()


def running(o) -> np.ndarray:
    return np.random.default_rng(3).normal(4, 2, (CHUNK, WIDTHS[o.embodiment][1])).astype("f4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "inpaint"}, "method is 'inpaint'; choose one of guided, prefix, or None"),
        ({"delay": CHUNK}, rf"delay is {CHUNK} actions; it must be 0 \.\. {CHUNK - 1} \(one less than a chunk\)"),
        ({"delay": 3, "method": "prefix"}, r"delay is 3 actions; it must be 0 \.\. 2 \(flow.prefix of its model\)"),
    ],
)
def test_a_delay_or_method_that_it_cannot_serve_is_refused(split_checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        RealTimePolicy(split_checkpoint, untrained=True, **options)


def test_other_heads_cannot_go_on_and_a_model_without_a_decoder_cannot_be_split(split_checkpoint):
    policy = dict(split_checkpoint.config["models"]["policy"])
    del policy["flow"]
    binned = dataclasses.replace(
        split_checkpoint, config=split_checkpoint.config | {"models": {"policy": policy | {"bins": {"num_bins": 8}}}}
    )
    with pytest.raises(ValueError, match="acts by bins; real-time chunking needs a flow-matching head"):
        RealTimePolicy(binned, untrained=True, method="guided")
    whole = split_checkpoint.config["models"]["policy"] | {"local_decoder": None}
    undivided = dataclasses.replace(split_checkpoint, config=split_checkpoint.config | {"models": {"policy": whole}})
    with pytest.raises(ValueError, match="whose model has no local decoder; give a phase"):
        SplitPolicy(undivided, untrained=True)
