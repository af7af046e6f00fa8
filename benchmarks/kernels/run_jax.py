"""A JAX implementation of a case as calls to time. The backward pass is JAX's own, so it is what a user gets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.kernels.cases import GRADIENT_OF, Arrays, Case
from benchmarks.kernels.timing import copies_of_inputs
from pallas_kernels import assembler

# Before JAX first uses the GPU, and for every JAX peer: kernels of theirs would spill registers too.
assembler.use_ptxas()

wait = jax.block_until_ready


class Runner:
    """`function(constants, *inputs)` gives one output or a tuple; constants are a dictionary of arrays.

    Constants are arguments and no literals of the program: the compiler must not fold what depends on them.
    """

    def __init__(self, case: Case, function: Callable[..., Any]):
        self.case = case
        self.constants = {name: jnp.asarray(array) for name, array in case.constants().items()}
        self.names, self.sets = _place(case, case.inputs())
        self.function = lambda constants, *inputs: _tuple(function(constants, *inputs))
        self._forward = jax.jit(self.function)
        self._backward = jax.jit(lambda pull, d_outputs: pull(d_outputs))

    @functools.cached_property
    def _d_outputs(self) -> tuple[jax.Array, ...]:
        return tuple(jnp.asarray(array).astype(self.case.dtype) for array in self.case.cotangents().values())

    @functools.cached_property
    def _pulls(self) -> list[Any]:
        """The backward functions with all they keep of the forward pass, one for each set of inputs."""
        linearise = jax.jit(lambda constants, *inputs: jax.vjp(functools.partial(self.function, constants), *inputs)[1])
        return [linearise(self.constants, *inputs) for inputs in self.sets]

    def outputs(self) -> Arrays:
        """The checked slice of every output, float32."""
        results = self._forward(self.constants, *self.sets[0])
        return {name: _host(self.case.slice_of(name, x)) for name, x in zip(self.case.outputs, results, strict=True)}

    def gradients(self) -> Arrays:
        """The checked slice of every gradient, float32, as `d_<input>`."""
        pairs = zip(self.names, self._backward(self._pulls[0], self._d_outputs), strict=True)
        return {f"d_{name}": _host(self.case.slice_of(name, x)) for name, x in pairs}

    def call(self, direction: str) -> Callable[[int], Any]:
        """`call(i)` queues the i-th run in this direction."""
        sets, num = self.sets, len(self.sets)
        if direction == "forward":
            return lambda i: self._forward(self.constants, *sets[i % num])
        if direction == "both":
            both = jax.jit(self._both)
            return lambda i: both(self.constants, self._d_outputs, *sets[i % num])
        backward = self._backward
        if direction in GRADIENT_OF:  # the compiler drops what only the other gradients need
            backward = jax.jit(lambda pull, d_outputs: pull(d_outputs)[GRADIENT_OF[direction]])
        return lambda i: backward(self._pulls[i % num], self._d_outputs)

    def _both(self, constants, d_outputs, *inputs):
        outputs, pull = jax.vjp(functools.partial(self.function, constants), *inputs)
        return outputs, pull(d_outputs)


def versions() -> dict[str, str]:
    return {"jax": jax.__version__, "device": jax.devices()[0].device_kind}


def _place(case: Case, inputs: Arrays) -> tuple[list[str], list[list[jax.Array]]]:
    first = [jnp.asarray(array).astype(case.dtype) for array in inputs.values()]
    copies = copies_of_inputs(sum(x.nbytes for x in first))
    return list(inputs), [first] + [[jnp.copy(x) for x in first] for _ in range(copies - 1)]


def _host(x: jax.Array) -> np.ndarray:
    return np.asarray(x.astype(jnp.float32))


def _tuple(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)
