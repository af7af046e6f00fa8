"""What records come to, against counts made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from eval.jobs.episodes import plan, share
from eval.jobs.suites import conditions_of, others, shifts_of
from eval.jobs.summary import compare_jobs, summarise
from eval.paired import mcnemar
from eval.wilson import wilson_interval

KINDS = {"light": "visual", "camera": "visual", "typos": "instruction"}


def records(conditions, solved, tasks=(("reach", "arm5"), ("push", "arm5"))):
    """10 episodes of each task under each condition; `solved(task, condition, index)` says which are."""
    return [
        {"id": e.id, **e.group, "seed": e.seed, "success": bool(solved(e.task, e.condition, e.index)), "steps": 9}
        for e in plan(tasks, conditions, 10)
    ]


@pytest.fixture(scope="module")
def found():
    limit = {"normal": 9, "light": 6, "camera": 9, "typos": 3, "blank_image": 0}
    return records(limit, lambda task, condition, index: index < limit[condition] - (task == "push"))


def test_every_task_arm_and_condition_has_its_rate_and_interval(found):
    rows = {(row["task"], row["condition"]): row for row in summarise(found, KINDS)["success"]}
    assert len(rows) == 10
    row = rows["push", "light"]
    assert (row["arm"], row["episodes"], row["successes"]) == ("arm5", 10, 5)
    assert (row["low"], row["high"]) == wilson_interval(5, 10)


def test_a_shift_stands_beside_the_same_episodes_without_it(found):
    rows = {row["condition"]: row for row in summarise(found, KINDS)["conditions"]}
    assert (rows["light"]["kind"], rows["light"]["episodes"], rows["light"]["successes"]) == ("visual", 20, 11)
    assert rows["light"]["difference"] == pytest.approx((11 - 17) / 20)
    assert rows["light"]["p_value"] == mcnemar(0, 6)
    low, high = rows["light"]["interval"]
    assert low < -0.3 < high < 0
    assert (rows["camera"]["difference"], rows["camera"]["p_value"]) == (0, 1)
    assert "difference" not in rows["normal"]
    assert rows["blank_image"]["kind"] == "control"


def test_kinds_pool_their_shifts(found):
    rows = {row["kind"]: row for row in summarise(found, KINDS)["kinds"]}
    assert (rows["visual"]["episodes"], rows["visual"]["successes"]) == (40, 11 + 17)
    assert (rows["instruction"]["episodes"], rows["instruction"]["successes"]) == (20, 5)
    assert list(summarise([r for r in found if r["condition"] == "normal"], KINDS)["kinds"]) == []


def test_two_checkpoints_are_compared_in_the_episodes_that_both_have(found):
    rng = np.random.default_rng(0)
    other = [record | {"success": bool(rng.random() < 0.5)} for record in found if record["seed"] % 10 < 8]
    rows = {(row["scope"], row["name"]): row for row in compare_jobs(found, other, KINDS)}
    assert next(iter(rows)) == ("all", "")
    assert rows["all", ""]["pairs"] == sum(record["condition"] != "blank_image" for record in other)
    assert rows["task", "push"]["pairs"] + rows["task", "reach"]["pairs"] == rows["all", ""]["pairs"]
    both = {record["id"]: record["success"] for record in other}
    ours = [(r["success"], both[r["id"]]) for r in found if r["condition"] == "light" and r["id"] in both]
    row = rows["condition", "light"]
    assert row["only_first"] == sum(a and not b for a, b in ours)
    assert row["only_second"] == sum(b and not a for a, b in ours)
    assert row["p_value"] == mcnemar(row["only_first"], row["only_second"])
    assert compare_jobs(found, [], KINDS) == []


def test_shares_of_hosts_are_all_episodes_once():
    episodes = plan([("reach", "arm5"), ("push", "arm6")], ("normal", "light"), 7)
    shares = [share(episodes, host, 3) for host in range(3)]
    assert sorted(e.id for part in shares for e in part) == sorted(e.id for e in episodes)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_kind_stands_for_its_shifts_and_every_suite_has_all_kinds():
    expected = [name for name, kind in shifts_of("tabletop").items() if kind == "action"]
    assert conditions_of("tabletop", ("normal", "action", "start")) == ("normal", *expected)
    for suite in ("tabletop", "metaworld"):
        assert set(shifts_of(suite).values()) == {"visual", "instruction", "action"}
    with pytest.raises(ValueError, match=r"conditions has 'heavy'; metaworld has normal, .*visual, .*slow_arm"):
        conditions_of("metaworld", ("heavy",))


def test_a_wrong_instruction_is_that_of_another_episode_or_of_another_task():
    (episode,) = plan([("reach", "arm5")], ("shuffled_instruction",), 1)
    assert {other.task for other in others("tabletop", episode)} == {"reach"}
    assert all(other.seed > episode.seed for other in others("tabletop", episode))
    (episode,) = plan([("window-open-v3", "sawyer")], ("shuffled_instruction",), 1)
    (other,) = others("metaworld", episode)
    assert other.task != episode.task
