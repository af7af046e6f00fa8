"""Optimiser state on several devices: the updates of one device, and each keeps its share of the moments."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from sharding.mesh import AXES
from sharding.rules import spread_spec
from tests.eight_devices import results_of
from tests.train.spread_cases import CASES
from train.spread import SMALL, moment_shardings

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


def test_gradients_are_summed_over_devices_in_one_message(results):
    sums = results["adamw, data"]["held"]["sums over devices"]
    assert sums <= 3, "gradients with the loss, their norm, and the tokens"


def test_moments_of_small_parameters_stay_whole():
    mesh = AbstractMesh((8, 1, 1, 1, 1), AXES)
    params = {
        name: jax.ShapeDtypeStruct((size, 8), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
        for name, size in {"small": SMALL // 8 - 8, "large": SMALL // 8}.items()
    }
    found = moment_shardings({"mu": params}, params, {"small": (0, 1), "large": (0, 1)})["mu"]
    assert found["small"].spec == PartitionSpec()
    assert found["large"].spec == PartitionSpec("data", None)


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
