"""Attention and recurrence with the slots of packed rows spread over devices: what one device gives."""

from __future__ import annotations

import functools

import pytest

from tests.eight_devices import results_of
from tests.model.sharded_cases import GROUPS, HALO_WINDOW, LONG_ROW, LONGEST_SPAN, Case, H, K, h

FLOAT = 4
results = functools.cache(functools.partial(results_of, "tests.model.sharded_cases"))


def of(*groups: str) -> list:
    """Every case of these groups, with its group."""
    cases = [(group, name, case) for group in groups for name, case in GROUPS[group][1].items()]
    return [
        pytest.param(group, name, case, id=f"{group}: {name}", marks=[pytest.mark.slow] if case.slow else [])
        for group, name, case in cases
    ]


def found(group: str, name: str, case: Case):
    return results("slow" if case.slow else "fast")[group][name]


@pytest.mark.parametrize(("group", "name", "case"), of("ring", "halo", "kernel", "from rows", "scan"))
def test_outputs_and_gradients_are_those_of_one_device(group, name, case):
    assert found(group, name, case) < 2e-6


@pytest.mark.parametrize(("group", "name", "case"), of("structure"))
def test_segments_and_spans_go_on_over_the_edges_of_shards(group, name, case):
    assert found(group, name, case)


def test_a_span_longer_than_said_is_not_a_number_where_keys_would_be_missing():
    assert results("fast")["broken promise"]["a span"]


@pytest.mark.parametrize("n", [4, 8])
def test_a_ring_permutes_keys_and_values_and_gathers_nothing(n):
    """Bytes from each device: k and v travel n - 1 times in the forward pass and as often in the backward pass, their
    gradients n times; zigzag order costs q, k, v and the gradients of out, q, k and v once, and the intervals."""
    program = results("fast")["program"][f"ring of {n}"]
    assert program["kinds"] == ["collective-permute"]
    of_heads = lambda heads: LONG_ROW // n * heads * h * FLOAT  # noqa: E731
    travelling = (2 * (n - 1) + n) * 2 * of_heads(K)
    zigzag = 3 * of_heads(H) + 4 * of_heads(K) + 2 * LONG_ROW // n * FLOAT
    assert program["bytes"] == pytest.approx(travelling + zigzag, rel=0.01)
    assert program["largest"] <= of_heads(K)


def test_a_halo_moves_the_window_and_not_the_sequence():
    program = results("fast")["program"]["halo of 8"]
    assert program["kinds"] == ["collective-permute"]
    key = K * h * FLOAT
    assert program["bytes"] == pytest.approx(2 * 2 * (HALO_WINDOW - 1 + LONGEST_SPAN - 1) * key, rel=0.01)


def test_memory_falls_with_the_number_of_shards():
    four, eight = (results("fast")["program"][f"ring of {n}"]["temporaries"] for n in (4, 8))
    assert four > 1.6 * eight
