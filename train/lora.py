"""Low-rank adaptation (arXiv 2106.09685): W + alpha / rank * (down @ up), of which down and up alone are trained.

The product is added where a module reads its weight, inside the scan over layers: every layer that multiplies by a
matrix can be adapted without knowing of it, one layer's sum exists at a time, and a merged model computes the same. It
spares the optimiser's state and the gradients of the whole model, not the arithmetic of the backward pass.
"""

from __future__ import annotations

import dataclasses
import math
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from model.init import fan_in
from model.model import Model, split
from sharding.rules import Axes
from train.optimizer import muon_dims

_BASE, _DOWN, _UP = "base", "lora_down", "lora_up"


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Train low-rank adapters beside frozen parameters; checkpoints hold both as one, so all that reads them does."""

    rank: int = 16
    alpha: float = 16.0  # the adapters' product counts alpha / rank times
    targets: tuple[str, ...] = ("^stack/",)  # patterns of the names of matrices that get adapters
    whole: tuple[str, ...] = ()  # patterns of parameters that are trained as they are, such as a new head

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; it must be at least 1")
        if self.alpha <= 0:
            raise ValueError(f"alpha is {self.alpha}; it must be positive")
        if not self.targets:
            raise ValueError("targets is empty; name at least one pattern, or remove lora and use optimizer.freeze")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class Adapted(nnx.Module):
    """In place of a parameter: read as `[...]`, it is the sum. Leading dims that stack layers or experts are kept."""

    def __init__(self, base: nnx.Param, down: jax.Array, up: jax.Array, scale: float, dims: tuple[int, int]):
        self.base, self.lora_down, self.lora_up = base, nnx.Param(down), nnx.Param(up)
        self.scale, self.dims = scale, dims

    def __getitem__(self, index: Any) -> jax.Array:
        assert index is Ellipsis, "a parameter is read whole"
        return merged_weight(self.base[...], self.lora_down[...], self.lora_up[...], self.scale, self.dims)


def merged_weight(base: Any, down: Any, up: Any, scale: float, dims: tuple[int, int]) -> Any:
    """W [S..., I..., O...] + scale * down [S..., I..., r] @ up [S..., r, O...]; dims: how many I and O there are."""
    inputs, outputs = dims
    stacked = base.ndim - inputs - outputs
    rank = down.shape[-1]
    down_SIr = down.reshape(*base.shape[:stacked], -1, rank)
    up_SrO = up.reshape(*base.shape[:stacked], rank, -1)
    return base + scale * (down_SIr @ up_SrO).reshape(base.shape)


class Lora:
    """The adapters of one model, whose parameters have the logical `axes` by name.

    Parameters come in three forms: plain, as a model without adapters has them; trained and frozen, which a phase keeps
    apart; joined, as the adapted model has them.

    Raises ValueError for a pattern without a matrix or parameter.
    """

    def __init__(self, config: LoraConfig, axes: Mapping[str, Axes], seed: int):
        self.config, self._plain_axes, self._seed = config, axes, seed
        self._whole = _matching(config.whole, list(axes), "whole")
        matrices = [name for name in axes if muon_dims(axes[name]) and name not in self._whole]
        found = _matching(config.targets, matrices, "targets")
        self.dims = {name: _sides(axes[name]) for name in found}

    @property
    def axes(self) -> dict[str, Axes]:
        """Of what is trained."""
        found = {name: self._plain_axes[name] for name in self._whole}
        for name, (_, outputs) in self.dims.items():
            axes = self._plain_axes[name]
            cut = len(axes) - outputs
            stacked = cut - self.dims[name][0]
            found[f"{name}/{_DOWN}"] = (*axes[:cut], "lora")
            found[f"{name}/{_UP}"] = (*axes[:stacked], "lora", *axes[cut:])
        return found

    def graph(self, create: Callable[[], Model]) -> Any:
        """The graph of the adapted model (see `model.model.split`), into which joined parameters go."""
        return split(jax.eval_shape(lambda: self._adapted(create())))[0]

    def _adapted(self, model: Model) -> Model:
        for path, module in list(nnx.iter_modules(model)):
            for attribute, value in list(vars(module).items()):
                name = "/".join(map(str, (*path, attribute)))
                if name in self.dims:
                    down, up = self._initial(name, value[...].shape)
                    setattr(module, attribute, Adapted(value, down, up, self.config.scale, self.dims[name]))
        return model

    def _initial(self, name: str, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """down: as a fresh layer; up: zeros, so that the first step meets the model as it was."""
        inputs, outputs = self.dims[name]
        cut, rank = len(shape) - outputs, self.config.rank
        key = jax.random.fold_in(jax.random.key(self._seed), zlib.crc32(name.encode()))
        down = fan_in(math.prod(shape[cut - inputs : cut]))(key, (*shape[:cut], rank))
        return down, jnp.zeros((*shape[: cut - inputs], rank, *shape[cut:]), jnp.float32)

    def begin(self, params: Any) -> Any:
        """What is trained, as it is at the first step, from plain parameters."""
        plain = _flat(params)
        trained = {name: plain[name] for name in self._whole}
        for name in self.dims:
            trained[f"{name}/{_DOWN}"], trained[f"{name}/{_UP}"] = self._initial(name, plain[name].shape)
        return _nested(trained)

    def frozen(self, params: Any) -> Any:
        """What is not, from plain parameters."""
        return _nested({name: leaf for name, leaf in _flat(params).items() if name not in self._whole})

    def joined(self, trained: Any, frozen: Any) -> Any:
        """Without copying."""
        renamed = {f"{name}/{_BASE}" if name in self.dims else name: leaf for name, leaf in _flat(frozen).items()}
        return _nested(renamed | _flat(trained))

    def merged(self, trained: Any, frozen: Any) -> Any:
        """Plain parameters, in which the adapters are part of the weights."""
        adapters, plain = _flat(trained), _flat(frozen)
        for name, dims in self.dims.items():
            down, up = adapters[f"{name}/{_DOWN}"], adapters[f"{name}/{_UP}"]
            plain[name] = merged_weight(plain[name], down, up, self.config.scale, dims)
        return _nested(plain | {name: adapters[name] for name in self._whole})


def _sides(axes: Axes) -> tuple[int, int]:
    """How many input and output dims a matrix has."""
    dims: Any = muon_dims(axes)
    return len(dims.reduction_axis), len(dims.output_axis)


def _matching(patterns: tuple[str, ...], names: list[str], field: str) -> list[str]:
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(f"{field} has {pattern!r}, which matches none of the names {names}; correct or remove it")
    return [name for name in names if any(re.search(pattern, name) for pattern in patterns)]


def _flat(tree: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")


def _nested(flat: dict[str, Any]) -> Any:
    return traverse_util.unflatten_dict(flat, sep="/")
