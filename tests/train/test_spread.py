"""Optimiser state on several devices: the updates of one device, and each keeps its share of the moments."""

from __future__ import annotations

import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from sharding.mesh import AXES
from sharding.rules import spread_spec
from tests.eight_devices import results_of
from tests.train.spread_cases import CASES

MESH = AbstractMesh((2, 2, 1, 4, 2), AXES)  # data, fsdp, expert, context, tensor


@pytest.fixture(scope="module")
def results():
    return results_of("tests.train.spread_cases")


@pytest.mark.parametrize("case", CASES)
def test_parameters_become_those_of_one_device(results, case):
    assert results[case]["difference"] < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_moments_on_a_device_fall_as_devices_are_added(results, case):
    found = results[case]
    held, whole = (found[part]["moments"] for part in ("held", "whole"))
    # Counters are everywhere, and what no axis of tokens is left for has copies along "tensor": one vector's moments.
    assert whole / 8 <= held <= whole / 8 * 1.1
    assert found["held"]["arguments as compiled"] == pytest.approx(found["held"]["arguments"], rel=0.05)


@pytest.mark.parametrize(
    ("spec", "shape", "dims", "expected"),
    [
        ((), (16, 64), None, (("context",), ("data", "fsdp"))),
        (("fsdp", "tensor"), (64, 64), None, (("fsdp", "data"), ("tensor", "context"))),
        (("fsdp",), (6,), None, (("fsdp",),)),
        ((None, "fsdp"), (4, 8), (0,), (("data",), ("fsdp",))),
        ((), (8, 8), (), ((), ())),
        ((), (), None, ()),
    ],
    ids=["longest dim first", "placed dims too", "indivisible", "only some dims", "no dims", "scalar"],
)
def test_copies_are_cut_along_what_divides(spec, shape, dims, expected):
    entries = [None if not axes else axes[0] if len(axes) == 1 else axes for axes in expected]
    assert spread_spec(PartitionSpec(*spec), MESH, shape, dims) == PartitionSpec(*entries)
