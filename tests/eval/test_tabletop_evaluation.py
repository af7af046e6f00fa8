"""Closed-loop evaluation: who is shown what under each condition, and what the records say."""

import numpy as np
import pytest

from eval import tabletop
from eval.config import EvaluateConfig, TabletopConfig
from eval.envs.tabletop import EVALUATION_SEED, TabletopBatch
from eval.tabletop import Group, evaluate, shuffled

CONFIG = TabletopConfig(policy="p", tasks=("reach",), arms=("arm5", "arm7"), episodes=3, films=2)


class Still:
    """Stays where it is; remembers what it was shown."""

    def __init__(self):
        self.seen = []

    def act(self, observations):
        self.seen.append(observations)
        joints = {"arm5": 5, "arm7": 7}
        return [np.tile(np.append(o.proprio[: joints[o.embodiment]], 0), (8, 1)) for o in observations]


class Expert:
    """Asks the scripted expert of whichever running episode comes next; one action a chunk."""

    def __init__(self, batches):
        self.batches = batches

    def act(self, observations):
        actions = [
            env.expert_action() for b in self.batches for env, done in zip(b.envs, b.done, strict=True) if not done
        ]
        assert len(actions) == len(observations)
        return [action[None] for action in actions]


def test_an_expert_succeeds_and_a_still_arm_does_not(monkeypatch):
    batches = []
    real = tabletop.TabletopBatch

    def remember(*args):
        batches.append(real(*args))
        return batches[-1]

    monkeypatch.setattr(tabletop, "TabletopBatch", remember)
    config = TabletopConfig("p", ("reach",), ("arm5", "arm7"), ("normal",), episodes=3, execute=1, films=1)
    records, films = evaluate(config, Expert(batches), None)
    assert [r["successes"] for r in records] == [3, 3]
    assert all(film.success and len(film.frames) > 5 for film in films)
    still, _ = evaluate(config, Still(), None)
    assert [r["successes"] for r in still] == [0, 0]


def test_records_name_every_task_arm_and_condition_with_an_interval():
    records, films = evaluate(CONFIG, Still(), Still())
    assert {(r["arm"], r["condition"]) for r in records} == {(a, c) for a in CONFIG.arms for c in CONFIG.conditions}
    assert all(r["episodes"] == 3 and r["low"] <= r["successes"] / 3 <= r["high"] for r in records)
    assert len(films) == 2 * len(CONFIG.arms)  # of the normal condition alone


def test_conditions_change_what_the_policy_is_shown_and_nothing_else():
    envs = TabletopBatch("arm5", "reach", 3, "test")
    normal, blank, mixed = (
        Group(envs, "reach", "arm5", condition, 0).asked()
        for condition in ("normal", "blank_image", "shuffled_instruction")
    )
    assert all(not o.images[0].any() for o in blank)
    assert all(o.images[0].any() for o in normal)
    assert [o.instruction for o in blank] == [o.instruction for o in normal]
    assert all(a.instruction != b.instruction for a, b in zip(mixed, normal, strict=True))
    for a, b, c in zip(normal, blank, mixed, strict=True):
        np.testing.assert_array_equal(a.proprio, b.proprio)
        np.testing.assert_array_equal(a.images[0], c.images[0])


def test_episodes_are_those_of_the_evaluation_seeds():
    envs = TabletopBatch("arm5", "reach", 2, "test")
    Group(envs, "reach", "arm5", "normal", 0)
    told = list(envs.instructions)
    envs.reset([EVALUATION_SEED, EVALUATION_SEED + 1])
    assert envs.instructions == told


def test_shuffled_gives_everyone_another_instruction_where_there_is_one():
    assert shuffled(["a", "a", "b"]) == ["b", "b", "a"]
    assert shuffled(["a", "a"]) == ["a", "a"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ("juggle",)}, "tasks is"),
        ({"arms": ()}, "arms is"),
        ({"conditions": ("dark",)}, "conditions is"),
        ({"wording": "unseen"}, "wording is 'unseen'"),
        ({"episodes": 0}, "episodes is 0"),
    ],
)
def test_refusals_name_the_field(options, message):
    with pytest.raises(ValueError, match=message):
        TabletopConfig("p", **options)


def test_an_evaluation_of_nothing_is_refused():
    with pytest.raises(ValueError, match="text and tabletop are both None"):
        EvaluateConfig()
