"""What the planner reads from compiled programs, against arithmetic by hand: eight virtual devices, float32."""

from __future__ import annotations

import collections

import pytest

from tests.eight_devices import results_of

FLOAT = 4
PIECES, WIDTH = 512, 64


@pytest.fixture(scope="module")
def found():
    return results_of("tests.sharding.plan.two_layers")


def sent(case):
    """Bytes that each device sends in a step, by (kind, axes)."""
    total = collections.Counter()
    for c in case["collectives"]:
        total[c["kind"], *c["axes"]] += c["sent"] * c["times"]
    return total


def test_collectives_inside_loops_count_as_often_as_they_run(found):
    """Three layers gather 64 x 64 over two devices and sum [8, 64] over two; a ring of two sends [8, 64] twice."""
    case = found["by_hand"]
    assert sent(case) == {
        ("all-gather", "fsdp"): 3 * 64 * 64 * FLOAT / 2,
        ("all-reduce", "data"): 3 * 2 * (8 * 64 * FLOAT) / 2,
        ("collective-permute", "context"): 2 * 8 * 64 * FLOAT,
    }
    assert case["flops"] == 3 * 2 * 8 * 64 * 64
    assert case["unknown"] == []


def test_data_parallel_sums_every_gradient_once_and_the_tied_table_twice(found):
    """2 (n - 1) / n of the gradients' bytes: the table's come from the look-up and from the head. Each device updates
    an eighth of the parameters that are not small, which are gathered again."""
    case = found["data"]
    summed = (case["parameters"] + PIECES * WIDTH) * FLOAT
    assert sent(case)["all-reduce", "data"] == pytest.approx(2 * 7 / 8 * summed, rel=0.001)
    assert sent(case)["all-gather", "data"] == pytest.approx(7 / 8 * case["spread"] * FLOAT, rel=0.001)
    assert PIECES * WIDTH < case["spread"] < case["parameters"]


def test_fsdp_gathers_each_layer_for_both_passes_and_the_table_once(found):
    case = found["fsdp"]
    gathered = (2 * case["parameters"] - PIECES * WIDTH) * FLOAT
    assert sent(case)["all-gather", "fsdp"] == pytest.approx(7 / 8 * gathered, rel=0.01)
    summed = 2 * 7 / 8 * case["parameters"] * FLOAT  # the CPU's compiler has no reduce-scatter
    assert sent(case)["all-reduce", "fsdp"] == pytest.approx(summed, rel=0.001)


def test_arguments_of_a_device_are_what_the_placements_say(found):
    """Parameters and two moments, whole under data parallelism and in eighths under FSDP."""
    for axis, copies in (("data", 8), ("fsdp", 1)):
        case = found[axis]
        assert case["told"]["parameters"] == case["parameters"] * FLOAT * copies / 8
        assert case["arguments"] == pytest.approx(sum(case["told"].values()), rel=0.005)


def test_matmuls_of_the_program_are_within_the_closed_form(found):
    """Which counts causal pairs alone; the program computes whole tiles of them, and its tiles fill the row here."""
    flops, closed = found["data"]["flops"], found["data"]["hardware_flops"] / 8
    assert closed < flops < 1.2 * closed
