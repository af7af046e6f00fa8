"""What a mismatch says: the ranks, both values, the remedy."""

from __future__ import annotations

from train.preflight.compare import differences, full_disks
from train.preflight.facts import Facts


def facts(rank: int, host: str = "", **equal: str) -> Facts:
    usual = {"jax": "0.12.0", "code": "aaa", "config": "c1", "devices": "8 x H200"}
    return Facts(rank, host or f"node{rank}", {**usual, **equal})


def test_hosts_that_agree_are_fine():
    assert differences([facts(rank) for rank in range(4)]) == []
    assert full_disks([facts(rank) for rank in range(4)]) == []


def test_a_version_that_differs_names_the_rank_and_both_values():
    assert differences([facts(0), facts(1), facts(2, jax="0.11.2")]) == [
        "jax is 0.12.0 on ranks 0, 1 (node0, node1) but 0.11.2 on rank 2 (node2); "
        "install the same version of jax everywhere"
    ]


def test_most_hosts_are_taken_to_be_right_and_the_first_where_two_disagree():
    assert "0.12.0 on ranks 1, 2" in differences([facts(0, jax="0.11.2"), facts(1), facts(2)])[0]
    assert "0.11.2 on rank 0" in differences([facts(0, jax="0.11.2"), facts(1)])[0]


def test_many_ranks_are_counted_rather_than_listed():
    (line,) = differences([facts(rank, devices=f"{1 + (rank > 5)} x H200") for rank in range(16)])
    assert line.startswith(
        "devices is 2 x H200 on ranks 6, 7, 8, 9 and 6 more (node6, node7, node8, node9, ...) but 1 "
    )
    assert line.endswith("and other values on 2 more; give every process as many devices of the same kind")


def test_another_config_names_the_fields():
    one, other = facts(0), facts(1, config="c2")
    one.fields, other.fields = {"config.seed": "0", "config.a": "1"}, {"config.seed": "7", "config.a": "1"}
    (line,) = differences([one, other])
    assert "config is c1 on rank 0 (node0) but c2 on rank 1 (node1) (config.seed: 0 there, 7 here)" in line


def test_code_is_compared_between_hosts_and_not_within_one():
    assert differences([facts(0, "a"), facts(1, "a", code="bbb"), facts(2, "b")]) == []
    assert (
        "code is aaa on rank 0 (a) but bbb on rank 1 (b)" in differences([facts(0, "a"), facts(1, "b", code="bbb")])[0]
    )


def test_data_that_is_not_there_is_told_once_with_all_ranks():
    all_facts = [facts(rank) for rank in range(3)]
    for one in all_facts[1:]:
        one.amiss["config.sources.text"] = "'/data/*.txt' matches no file"
    assert differences(all_facts) == [
        "config.sources.text: '/data/*.txt' matches no file (on ranks 1, 2 (node1, node2))"
    ]


def test_full_disks_are_told_apart_from_mistakes():
    one = facts(0)
    one.full = "/runs has 0.10 GB free, a checkpoint takes 2.00 GB"
    assert differences([one, facts(1)]) == []
    assert full_disks([one, facts(1)]) == [f"{one.full}; free some space (on rank 0 (node0))"]


def test_facts_travel_as_text():
    one = facts(3)
    one.amiss["tokenizer"] = "no vocabulary"
    assert Facts.from_text(one.to_text()) == one
