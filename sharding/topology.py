"""Accelerators that are not there: named topologies to compile for ahead of time, on any machine.

v5p:2x2x1  v6e:2x2  tpu7x:2x2x1   chips along each side of the torus; needs the extra `tpu`
v5p:4x4x4@2                       two such slices, joined by the slower network of the data centre
h200:1  h200:4x8                  devices of one host, or hosts x devices per host; needs the extra `cuda`
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import re
from typing import Any

from jax.experimental import topologies
from jax.sharding import AbstractDevice

__all__ = ["KINDS", "Topology", "abstract_device", "topology"]

# What a device of each kind calls itself, and how many cores it has: what kernels are traced for.
KINDS = {
    "v5p": AbstractDevice(device_kind="TPU v5", num_cores=2, platform="tpu"),
    "v6e": AbstractDevice(device_kind="TPU v6 lite", num_cores=1, platform="tpu"),
    "tpu7x": AbstractDevice(device_kind="TPU7x", num_cores=1, platform="tpu"),
    "h200": AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="cuda"),
}
_SIDES = {"v5p": 3, "v6e": 2, "tpu7x": 3}
_EXAMPLES = "v5p:2x2x1, v6e:2x2, v5p:4x4x4@2 (slices), tpu7x:2x2x1, h200:1, h200:4x8"
_H200 = pathlib.Path(__file__).with_name("h200.txtpb")


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices that programs can be placed on and compiled for, but not run on.

    Trace under `use_abstract_mesh(AbstractMesh(..., abstract_device=abstract_device))` with arguments sharded over
    `devices`, and give `compiler_options` to `compile`. Nothing that depends on being timed, such as the choice of a
    matmul's algorithm, is what a real device would get.
    """

    name: str
    devices: tuple[Any, ...]
    abstract_device: AbstractDevice
    compiler_options: dict[str, str]


def abstract_device(name: str) -> AbstractDevice:
    """The kind of device a topology is made of; needs no extra.

    Raises:
        ValueError: an unknown name.
    """
    return KINDS[_parse(name)[0]]


def topology(name: str) -> Topology:
    """The devices of `name`, such as "v5p:2x2x1" or "h200:4x8".

    Processes that compile run best with JAX_PLATFORMS=cpu: else JAX looks for real accelerators first.

    Raises:
        ValueError: an unknown name, sides that no such machine has, or an extra that is not installed.
    """
    kind, sides, slices = _parse(name)
    gpu = KINDS[kind].platform == "cuda"
    extra, modules = ("cuda", ("jax_cuda13_plugin", "jax_cuda12_plugin")) if gpu else ("tpu", ("libtpu",))
    if not any(importlib.util.find_spec(module) for module in modules):
        raise ValueError(
            f"topology: {name} needs the compiler of the extra {extra!r}, which is not installed. Run "
            f"`pip install -e '.[{extra}]'`, or `make aot`, which has an environment with both extras."
        )
    try:
        devices = _gpus(sides) if gpu else _tpus(name.partition("@")[0], slices)
    except Exception as error:  # the plugins raise what they like
        raise ValueError(f"topology: {name} cannot be made: {str(error).splitlines()[0]}") from error
    # Without a device there is nothing to time candidates on.
    return Topology(name, tuple(devices), KINDS[kind], {"xla_gpu_autotune_level": "0"} if gpu else {})


def _parse(name: str) -> tuple[str, tuple[int, ...], int]:
    """Kind, sides and number of slices."""
    found = re.fullmatch(r"(\w+):([1-9]\d*(?:x[1-9]\d*)*)(?:@([1-9]\d*))?", name)
    kind, shape, slices = found.groups() if found else ("", "", None)
    sides = tuple(map(int, shape.split("x"))) if shape else ()
    torus = kind in _SIDES and len(sides) == _SIDES[kind]
    if not torus and not (kind == "h200" and len(sides) in (1, 2) and slices is None):
        raise ValueError(f"topology: got {name!r}; allowed are names like {_EXAMPLES}.")
    return kind, sides, int(slices or 1)


def _tpus(name: str, slices: int) -> list[Any]:
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server to ask about this machine
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is held, so processes need not take turns
    options = {"num_slices": slices} if slices > 1 else {}
    return topologies.get_topology_desc(name, platform="tpu", **options).devices


def _gpus(sides: tuple[int, ...]) -> list[Any]:
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # some libraries load only where there is a driver
    hosts, devices = sides if len(sides) == 2 else (1, *sides)
    options = {"target_config": _H200.read_text(), "topology": f"1x{hosts}x{devices}"}  # one NVLink domain
    return topologies.get_topology_desc("", platform="cuda", **options).devices
