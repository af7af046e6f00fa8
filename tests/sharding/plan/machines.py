"""Devices that need not be there, and plans of them by hand."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import numpy as np

from sharding.plan.machines import GIB, MACHINES
from sharding.plan.plan import Memory, Plan, Seconds, Traffic


@dataclasses.dataclass
class Chip:
    """A device of a torus."""

    coords: tuple[int, ...]
    slice_index: int = 0
    process_index: int = 0
    platform: str = "tpu"
    id: int = 0


def torus(*sides: int, slices: int = 1) -> list[Chip]:
    return [Chip(tuple(map(int, at)), index) for index in range(slices) for at in np.ndindex(sides)]


def mesh_of(devices: list[Any], **shape: int) -> Any:
    """What plans ask of a mesh."""
    array = np.empty(len(devices), object)
    array[:] = devices
    return types.SimpleNamespace(shape=shape, devices=array.reshape(tuple(shape.values())))


def plan(temporaries: float = 10 * GIB, **changes: Any) -> Plan:
    """A step that computes for two seconds."""
    facts: dict[str, Any] = {
        "title": "small.py",
        "topology": "v5p:2x2x1",
        "machine": MACHINES["v5p"],
        "mesh": {"data": 2, "fsdp": 2, "expert": 1, "context": 1, "tensor": 1},
        "rows": 8,
        "slots": 1024,
        "parameters": 10**9,
        "memory": Memory({"parameters": 2 * GIB, "optimiser": 4 * GIB, "batch": 0.0}, temporaries, 95 * GIB),
        "seconds": Seconds(compute=2.0, memory=1.0, fast_network=0.75, slow_network=0.0, exposed=0.25),
        "traffic": [Traffic("all-gather", "", "fsdp", 2, "fast", 3, 12.0, 5e9, 0.75, 2 / 3)],
        "model_flops": 4 * 459e12,
        "hardware_flops": 4 * 2 * 459e12,
        "compiled_flops": 2 * 459e12,
        "traffic_bytes": 2765e9,
        "kernels": {"forward": 4.0},
        "unknown_loops": 0,
        "compile_seconds": 30.0,
    }
    return Plan(**facts | changes)
