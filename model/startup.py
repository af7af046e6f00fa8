"""What a program does before JAX first uses a device."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os

import jaxlib

from pallas_kernels import assembler

# XLA's own matrix products on a CPU are up to three times slower where an operand is transposed, as in every backward
# pass; a library that it carries behind this switch is not. (oneDNN, behind another, is faster still in bfloat16, but
# programs with it cannot be kept in the compilation cache.) An unknown switch ends the process, so it is set only for
# versions that were tried.
_CPU_PRODUCTS = ("--xla_cpu_experimental_ynn_fusion_type", "dot")
_TRIED = ((0, 11, 2), (0, 13))  # from, before
# Of glibc's mallopt: freed memory up to 2 GB is kept, and large blocks come from one heap as all others do.
_MALLOC = {"trim_threshold": (-1, 2**31 - 1), "mmap_max": (-4, 0), "arena_max": (-8, 1)}


def prepare_kernels() -> None:
    """See to it that GPU kernels get their registers and that a CPU multiplies matrices fast, in memory it has.

    A warning says where GPU kernels cannot be helped, and the remedy.
    """
    fast_cpu_products()
    if only_cpu():
        keep_freed_memory()
    if not assembler.use_ptxas():
        logging.getLogger(__name__).warning(assembler.problem())


def fast_cpu_products(version: str = jaxlib.__version__) -> None:
    """Add to XLA_FLAGS, which is read when the first device is used, unless the user has set it there."""
    release = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if not _TRIED[0] <= release < _TRIED[1]:
        return
    switch, value = _CPU_PRODUCTS
    given = os.environ.get("XLA_FLAGS", "")
    if switch not in given:
        os.environ["XLA_FLAGS"] = f"{given} {switch}={value}".strip()


def only_cpu() -> bool:
    """Whether JAX can find no accelerator, told without starting it."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return True
    return not any(importlib.util.find_spec(plugin) for plugin in ("jax_plugins", "libtpu"))


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, where it is glibc.

    XLA takes the temporaries of every step on a CPU anew. Given back in between, hundreds of megabytes are cleared by
    the kernel in each step, for a fifth of its time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _MALLOC.values():
            mallopt(option, value)
