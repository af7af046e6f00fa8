"""Where the parameters of every config lie: spread over some axis, but for a few small ones, which are listed."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np
import pytest
from jax.sharding import AbstractMesh

from configs.command import load
from docs.support import parameters
from model.config import ModelConfig
from sharding.mesh import AXES
from sharding.rules import RULES, Axes, kept_whole, spec_for
from train.mesh_fit import model_cuts
from train.sections import Sections

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
NAMES = sorted({path.name for path in CONFIGS.glob("*.py")} - {"__init__.py", "command.py", "schema.py"})
MOST_WHOLE = 0.01  # share of a model's bytes


@dataclasses.dataclass(frozen=True)
class Placed:
    """A model's parameters as shapes, and their logical axes, by name."""

    config: ModelConfig
    params: dict[str, Any]
    axes: dict[str, Axes]


def no_eigenvalues(num_states: int) -> tuple[np.ndarray, np.ndarray]:
    """Shapes alone: those of thousands of states take minutes."""
    return np.full(num_states, -1 + 1j), np.zeros((2 * num_states, num_states), complex)


@functools.cache
def models(name: str) -> list[Placed]:
    path = str(CONFIGS / name)
    configs = Sections.of(load(path)).models
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.recurrent.legs_eigenvalues", no_eigenvalues)
        return [Placed(configs[key], params, axes) for key, params, axes in parameters(path)]


def dims_along(model: Placed, mesh_axis: str) -> dict[tuple[str, str], int]:
    """Lengths of all dims that lie along a mesh axis, by parameter and logical axis."""
    return {
        (name, axis): model.params[name].shape[dim]
        for name, axes in model.axes.items()
        for dim, axis in enumerate(axes)
        if axis is not None and RULES[axis] == mesh_axis
    }


@pytest.mark.parametrize("name", NAMES)
def test_next_to_nothing_of_a_model_is_held_whole_by_every_device(name):
    for model in models(name):
        whole = kept_whole(model.params, model.axes)
        total = sum(x.size * x.dtype.itemsize for x in model.params.values())
        assert sum(whole.values()) <= MOST_WHOLE * total, whole


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_placed_on_every_axis_that_its_sizes_allow(name):
    """Two devices along each mesh axis in turn: placed, or refused for a dim that two do not divide."""
    for model in models(name):
        for mesh_axis in AXES:
            mesh = AbstractMesh(tuple(2 if axis == mesh_axis else 1 for axis in AXES), AXES)
            odd = {parameter for (parameter, _), size in dims_along(model, mesh_axis).items() if size % 2}
            for parameter, x in model.params.items():
                if parameter in odd:
                    with pytest.raises(ValueError, match=rf"which mesh\.{mesh_axis} = 2 does not divide"):
                        spec_for(model.axes[parameter], mesh, x.shape, parameter)
                    continue
                spec = spec_for(model.axes[parameter], mesh, x.shape, parameter)
                along = [axis for axis in model.axes[parameter] if axis is not None and RULES[axis] == mesh_axis]
                assert (mesh_axis in spec) == bool(along)


@pytest.mark.parametrize("name", NAMES)
def test_the_fields_that_are_checked_up_front_are_all_that_can_fail(name):
    """But for the vocabulary, whose size no model's config says, and the inside of image encoders and heads."""
    for model in models(name):
        checked = [(axis, value) for _, value, axis in model_cuts(model.config) if value]
        for mesh_axis in ("fsdp", "expert", "tensor"):
            for (parameter, logical), size in dims_along(model, mesh_axis).items():
                if parameter.startswith("stack/") and logical != "vocab":
                    multiples = [value for axis, value in checked if axis == mesh_axis and size % value == 0]
                    assert multiples, (parameter, logical)
