"""The simulated clock of the latency benchmark: who acts on what he saw when."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.latency import __main__ as command
from benchmarks.latency.clock import PERIOD, Mode, Worlds, run
from benchmarks.latency.record import record
from data.lerobot import LeRobotDataset
from eval.envs.tabletop import Tabletop

JOINTS, DELAY, STEPS = 5, 7, 5


@dataclasses.dataclass
class Seen:
    observation: object
    chunk_Ca: np.ndarray


class Still:
    """A split policy that stays where it is; it remembers which look it was asked to decode, and when."""

    steps = STEPS

    def __init__(self):
        self.looks, self.decoded = [], []

    def look(self, observations):
        number = len(self.looks)
        self.looks.append(observations)
        chunk = lambda o: np.tile(np.append(o.proprio[:JOINTS], 0.0), (8, 1))  # noqa: E731
        return [Seen(dataclasses.replace(o, instruction=str(number)), chunk(o)) for o in observations]

    def running_of(self, look, age):
        assert age % STEPS == 0
        return look.chunk_Ca[age // STEPS :]

    def decode(self, looks, proprios, delays):
        self.decoded.append((int(looks[0].observation.instruction), delays[0], proprios[0]))
        return [np.append(p[:JOINTS], 0.0) for p in proprios]


@pytest.fixture
def worlds():
    worlds = Worlds("reach", ["arm5"], 2, control_hz=50)
    worlds.max_steps = 45
    return worlds


def test_the_local_decoder_acts_on_the_latest_look_that_has_arrived(worlds):
    policy = Still()
    outcome = run(worlds, policy, Mode(), DELAY)
    asked = [0, *range(PERIOD, 45, PERIOD)]
    assert len(policy.looks) == len(asked)
    calls = [(look, delay) for look, delay, _ in policy.decoded]
    expected = []
    for step in range(DELAY, 45):  # before the first answer the arm holds still
        arrived = [at for at in asked if at + DELAY <= step]
        expected.append((len(arrived) - 1, step - arrived[-1]))
        if step in [
            at + DELAY for at in asked[1:]
        ]:  # where looks change, what the old one would have done is asked too
            expected.append((len(arrived) - 2, step - arrived[-2]))
    assert calls == expected
    assert not outcome.success.any()
    assert outcome.steps.tolist() == [250, 250]
    np.testing.assert_allclose(outcome.gaps, 0, atol=1e-6)


def test_a_far_policy_acts_on_what_it_saw_and_felt_a_delay_ago(worlds):
    policy = Still()
    run(worlds, policy, Mode(single=True), DELAY)
    assert len(policy.looks) == 45
    assert [(look, delay) for look, delay, _ in policy.decoded] == [(step, 0) for step in range(45 - DELAY)]
    for look, _, felt in policy.decoded:
        np.testing.assert_array_equal(felt, policy.looks[look][0].proprio)


def test_chunks_are_played_back_without_the_decoder(worlds):
    policy = Still()
    run(worlds, policy, Mode(local=False), 0)
    assert not policy.decoded
    assert policy.looks[0][0].running is None
    assert [o[0].running.shape for o in policy.looks[1:]] == [(8 - PERIOD // STEPS, JOINTS + 1)] * 2


def test_an_expert_at_50_hz_succeeds_and_its_demonstrations_are_recorded(tmp_path):
    record(tmp_path, ["arm5"], ["reach"], 2, 50)
    dataset = LeRobotDataset(tmp_path / "arm5")
    assert (dataset.fps, dataset.num_episodes) == (50, 2)
    assert dataset.column("annotation.plan").shape[-1] == 4


def test_the_bars_are_means_over_tasks_with_the_delay():
    rows = [
        {"mode": mode, "delay_steps": delay, "success": rate}
        for mode, delay, rate in (
            ("single action", 13, 0.2),
            ("single action", 13, 0.6),
            ("decoder, guided", 13, 0.9),
            ("decoder, guided", 13, 0.6),
            ("decoder", 0, 1.0),
        )
    ]
    bars = command._bars(rows, 13, {"act_ms": {"p95": 25.0}})
    assert bars["split"] == {"success": 0.75, "bar": 0.7, "met": True}
    assert bars["single"] == {"success": 0.4, "bar": 0.4, "met": True}
    assert not bars["decoder_p95_ms"]["met"]
    json.dumps(bars)


def test_one_of_recording_and_measuring_is_asked_for(capsys):
    with pytest.raises(SystemExit):
        command.main([])
    assert "give --record or --checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["reach", "push"])
def test_the_expert_is_as_quick_at_50_hz_as_at_10(task):
    seconds = []
    for hz in (10, 50):
        world = Tabletop("arm6", task, control_hz=hz)
        taken = []
        for seed in range(3):
            world.reset(seed)
            steps = 0
            while not world.success():
                world.step(world.expert_action(), render=False)
                steps += 1
                assert steps < world.max_steps
            taken.append(steps / hz)
        seconds.append(np.mean(taken))
    assert seconds[1] == pytest.approx(seconds[0], rel=0.3)


@pytest.mark.parametrize("hz", [5, 30, 0])
def test_other_rates_of_control_are_refused(hz):
    with pytest.raises(ValueError, match=f"control_hz={hz}: choose a divisor of 100, 10 at least"):
        Tabletop("arm5", "reach", control_hz=hz)
