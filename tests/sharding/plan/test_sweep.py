"""Which mesh shapes are tried, and in which order."""

import dataclasses

import pytest
from rich.console import Console

from sharding.plan.machines import MACHINES
from sharding.plan.sweep import Load, candidates, divides, estimate, shapes, show_ranking
from tests.sharding.plan.machines import plan

LOAD = Load(
    parameters=[((256, 1024), ("embed", "mlp")), ((4096, 256), ("vocab", "embed")), ((8, 256), ("experts", "embed"))],
    state_bytes=12,
    rows=8,
    slots=4096,
    accumulate=1,
    width=256,
    layers=4,
    hidden=1024,
    kv_width=512,
    routed=4,
    hardware_flops=1e15,
)
V5P = MACHINES["v5p"]


def mesh(**sizes):
    return {"data": 1, "fsdp": 1, "expert": 1, "context": 1, "tensor": 1} | sizes


def test_shapes_are_all_products_over_the_axes():
    found = shapes(4)
    assert len(found) == 15  # two factors of 2 over five axes
    assert mesh(data=2, tensor=2) in found


@pytest.mark.parametrize(
    ("sizes", "good"),
    [
        ({"data": 8}, True),
        ({"data": 16}, False),  # rows
        ({"context": 2048}, True),
        ({"context": 4096}, False),  # two chunks a shard
        ({"expert": 8}, True),
        ({"expert": 16, "data": 1}, False),
        ({"tensor": 3}, False),  # hidden units
    ],
)
def test_what_is_cut_must_be_divided(sizes, good):
    assert divides(LOAD, mesh(**sizes)) is good


def test_experts_need_something_routed():
    assert not divides(dataclasses.replace(LOAD, routed=0), mesh(expert=2))


def test_state_is_placed_by_the_rules_and_traffic_by_hand():
    found = estimate(LOAD, mesh(fsdp=4, context=2), V5P)
    total = 256 * 1024 + 4096 * 256 + 8 * 256
    slots = 8 * 4096 / 8
    assert found.bytes == total / 4 * 16 + slots * 256 * 2 * 4 + slots * (4 * 256 + 3 * 1024) * 4
    assert found.compute == pytest.approx(1e15 / 8 / 459e12)
    assert found.network == {
        "fsdp": pytest.approx(total * 10 * 3 / 4 / 200e9),
        "context": pytest.approx(5 * slots * 512 * 2 / 200e9),
    }


def test_candidates_fit_and_the_fastest_comes_first():
    found = candidates(LOAD, 8, V5P)
    assert found
    assert [c.seconds for c in found] == sorted(c.seconds for c in found)
    assert candidates(LOAD, 8, dataclasses.replace(V5P, memory=1.0)) == []


def test_the_ranking_has_compiled_plans_before_estimates(capsys):
    slow = dataclasses.replace(plan(), seconds=dataclasses.replace(plan().seconds, compute=9.0))
    show_ranking([slow, plan()], candidates(LOAD, 8, V5P)[:2], Console(width=140))
    told = capsys.readouterr().out
    assert told.index("2.25") < told.index("9.25") < told.index("not compiled")
