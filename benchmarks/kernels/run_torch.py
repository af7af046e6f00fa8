"""A PyTorch implementation of a case as calls to time; the counterpart of `run_jax`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.kernels.cases import GRADIENT_OF, Arrays, Case
from benchmarks.kernels.timing import copies_of_inputs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def wait(_: Any) -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class Runner:
    """`function(constants, *inputs)` gives one output or a tuple; constants are a dictionary of tensors."""

    def __init__(self, case: Case, function: Callable[..., Any]):
        self.case, self.dtype = case, getattr(torch, case.dtype)
        self.constants = {name: torch.from_numpy(array).to(DEVICE) for name, array in case.constants().items()}
        arrays = case.inputs()
        self.names = list(arrays)
        first = [self._place(array) for array in arrays.values()]
        copies = copies_of_inputs(sum(x.nbytes for x in first))
        self.sets = [first] + [[x.clone() for x in first] for _ in range(copies - 1)]
        self.function = lambda *inputs: _tuple(function(self.constants, *inputs))

    def _place(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(DEVICE).to(self.dtype)

    @functools.cached_property
    def _d_outputs(self) -> tuple[torch.Tensor, ...]:
        return tuple(self._place(array) for array in self.case.cotangents().values())

    @functools.cached_property
    def _graphs(self) -> list[tuple[torch.Tensor, ...]]:
        """The outputs with their recorded forward pass, one for each set of inputs."""
        return [self.function(*self._tracked(inputs)) for inputs in self.sets]

    def _tracked(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        return [x.requires_grad_(True) for x in inputs]

    def outputs(self) -> Arrays:
        """The checked slice of every output, float32."""
        with torch.no_grad():
            results = self.function(*self.sets[0])
        return {name: _host(self.case, name, x) for name, x in zip(self.case.outputs, results, strict=True)}

    def gradients(self) -> Arrays:
        """The checked slice of every gradient, float32, as `d_<input>`."""
        gradients = torch.autograd.grad(self._graphs[0], self.sets[0], self._d_outputs, retain_graph=True)
        pairs = zip(self.names, gradients, strict=True)
        return {f"d_{name}": _host(self.case, name, x) for name, x in pairs}

    def call(self, direction: str) -> Callable[[int], Any]:
        """`call(i)` queues the i-th run in this direction."""
        sets, num = self.sets, len(self.sets)
        if direction == "forward":
            return torch.no_grad()(lambda i: self.function(*sets[i % num]))
        if direction == "both":
            return lambda i: self._both(sets[i % num])
        position = GRADIENT_OF.get(direction)
        wanted = slice(None) if position is None else slice(position, position + 1)
        return lambda i: torch.autograd.grad(
            self._graphs[i % num], sets[i % num][wanted], self._d_outputs, retain_graph=True
        )

    def _both(self, inputs: list[torch.Tensor]) -> Any:
        inputs = self._tracked(inputs)
        outputs = self.function(*inputs)
        return outputs, torch.autograd.grad(outputs, inputs, self._d_outputs)


def versions() -> dict[str, str]:
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    return {"torch": torch.__version__, "cuda": str(torch.version.cuda), "device": device}


def _host(case: Case, name: str, x: torch.Tensor) -> np.ndarray:
    return case.slice_of(name, x.detach()).float().cpu().numpy()


def _tuple(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)
