"""Which backend computes an operation: that of the platform it is traced for, unless the caller forces one."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import logging
from collections.abc import Iterator
from typing import Any, Literal

import jax

from pallas_kernels import assembler

__all__ = ["BACKENDS", "Backend", "emulate", "emulating", "select"]

Backend = Literal["auto", "reference", "gpu", "tpu"]
BACKENDS = ("auto", "reference", "gpu", "tpu")

_log = logging.getLogger(__name__)
_emulated: contextvars.ContextVar[str | None] = contextvars.ContextVar("emulated", default=None)


@contextlib.contextmanager
def emulate(backend: str, *, detect_races: bool = False) -> Iterator[None]:
    """Run the kernels of "gpu" or "tpu" on the CPU, in Pallas' simulator of the device's memories and barriers.

    Slow: for tests and debugging on small shapes. With `detect_races` unordered accesses to one place are reported. On
    a machine of few cores start Python with NPROC=16: each simulated thread needs one of XLA's, which waits with it.
    """
    from jax.experimental.pallas import mosaic_gpu as plgpu
    from jax.experimental.pallas import tpu as pltpu

    if backend == "gpu":
        mode = plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(detect_races=detect_races))
    elif backend == "tpu":
        mode = pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(detect_races=detect_races))
    else:
        raise ValueError(f"backend: got {backend!r}; allowed are 'gpu' and 'tpu', the others need no simulator.")
    token = _emulated.set(backend)
    try:
        with mode:
            yield
    finally:
        _emulated.reset(token)


def emulating() -> bool:
    """Whether kernels traced now run in the simulator, which lacks a few instructions."""
    return _emulated.get() is not None


def select(op: str, asked: str, *args: Any, **options: Any) -> str:
    """Return the name of the backend that computes `op`: "reference", "gpu" or "tpu".

    Each backend is a module `pallas_kernels.<op>.<name>` whose `unsupported(*args, **options)` says why it cannot serve
    such a call, or returns None. "auto" takes the kernel of the platform, or the reference with one warning that says
    why. What is taken is logged once for each reason.

    Raises:
        ValueError: an unknown name, or a forced backend that cannot serve the call.
    """
    if asked not in BACKENDS:
        raise ValueError(f"backend: got {asked!r}; allowed are {', '.join(BACKENDS)}.")
    target = _target()
    if asked == "reference" or (asked == "auto" and target == "reference"):
        _say_once(logging.DEBUG, f"{op}: reference")
        return "reference"
    name = target if asked == "auto" else asked
    problem = None if target == name else f"the program is traced for {_platform()}"
    problem = problem or _device_problem(name) or module(op, name).unsupported(*args, **options)
    if problem is None:
        _say_once(logging.INFO, f"{op}: {name} kernel")
        if name == "gpu" and not emulating() and _abstract_device() is None and (slow := assembler.problem()):
            _say_once(logging.WARNING, slow)
        return name
    if asked != "auto":
        raise ValueError(
            f"backend: got {asked!r} for {op}, but {problem}. Change that, or use 'auto' to take the reference."
        )
    _say_once(logging.WARNING, f"{op}: reference instead of the {name} kernel, since {problem}")
    return "reference"


def module(op: str, name: str) -> Any:
    """The backend's module, imported when first needed: Mosaic takes a while to import."""
    return importlib.import_module(f"pallas_kernels.{op}.{name}")


def _target() -> str:
    return _emulated.get() or {"gpu": "gpu", "cuda": "gpu", "tpu": "tpu"}.get(_platform(), "reference")


def _abstract_device() -> Any:
    """The device a program is compiled for ahead of time, where `jax.sharding.use_abstract_mesh` names one."""
    return getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)


def _platform() -> str:
    device = _abstract_device()
    return device.platform if device is not None else jax.default_backend()


def _device_problem(name: str) -> str | None:
    """Why no kernel of this backend can run on the device or devices, whatever the shapes."""
    if emulating():
        return None
    abstract = _abstract_device()
    device = abstract or jax.local_devices()[0]
    if name == "gpu" and not any(hopper in device.device_kind for hopper in ("H100", "H200", "H20", "H800", "GH200")):
        return f"the GPU kernels are written for Hopper (sm_90a), not for {device.device_kind}"
    mesh = jax.sharding.get_abstract_mesh()
    num_devices = mesh.size if not mesh.empty else 1 if abstract else jax.device_count()
    if num_devices > 1 and not (not mesh.empty and set(mesh.manual_axes) == set(mesh.axis_names)):
        return f"XLA cannot partition a kernel over {num_devices} devices by itself; call it inside shard_map"
    return None


@functools.cache
def _say_once(level: int, message: str) -> None:
    _log.log(level, message)
