"""Start-up of one or many processes, each driving the devices of its host."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from sharding.mesh import AXES, BATCH_AXES

DETECT = "auto"


@dataclasses.dataclass(frozen=True)
class ProcessConfig:
    """How this process finds the others.

    coordinator: "" = this process is alone; "auto" = the cluster's own environment tells (SLURM, Open MPI, Kubernetes,
        Cloud TPU); else "host:port" of process 0, with `count` processes of which this one is `index`.
    """

    coordinator: str = ""
    count: int | None = None
    index: int | None = None

    def __post_init__(self):
        explicit = self.coordinator not in ("", DETECT)
        if explicit and ":" not in self.coordinator:
            raise ValueError(f"coordinator is {self.coordinator!r}; allowed: '', 'auto' or 'host:port'")
        if explicit and (self.count is None or self.index is None):
            raise ValueError(f"coordinator {self.coordinator!r} needs count and index; set both or use 'auto'")
        if not explicit and not (self.count is None and self.index is None):
            raise ValueError(f"count and index have no effect with coordinator {self.coordinator!r}; remove them")
        if self.count is not None and self.index is not None and not 0 <= self.index < self.count:
            raise ValueError(f"index is {self.index}; it must be 0 .. count - 1 = {self.count - 1}")


def from_environment(environment: Mapping[str, str] = os.environ) -> ProcessConfig:
    """Reads KINEMA_COORDINATOR, KINEMA_PROCESS_COUNT and KINEMA_PROCESS_INDEX; unset means a single process."""

    def number(name: str) -> int | None:
        text = environment.get(name, "")
        if text and not text.isdigit():
            raise ValueError(f"{name} is {text!r}; it must be a whole number")
        return int(text) if text else None

    return ProcessConfig(
        coordinator=environment.get("KINEMA_COORDINATOR", ""),
        count=number("KINEMA_PROCESS_COUNT"),
        index=number("KINEMA_PROCESS_INDEX"),
    )


def start(config: ProcessConfig, heartbeat_seconds: int = 100) -> None:
    """Joins the other processes; call once, before anything else of JAX. Does nothing for a single process.

    heartbeat_seconds: after which JAX takes a silent process for dead, and aborts the others.
    """
    if config.coordinator == DETECT:
        jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_seconds)
    elif config.coordinator:
        # Detection would still run, and inside a cluster's job leave each process one GPU.
        jax.distributed.initialize(
            config.coordinator,
            config.count,
            config.index,
            cluster_detection_method="deactivate",
            heartbeat_timeout_seconds=heartbeat_seconds,
        )


def host_index() -> int:
    """Which process this is; process 0 writes what only one should write."""
    return jax.process_index()


def host_count() -> int:
    return jax.process_count()


def row_share(mesh: Mesh, process: int) -> tuple[int, int]:
    """(index, count): `process` feeds the index-th of `count` equal parts of a batch's rows.

    Processes whose devices hold the same rows, as where tensor or context runs through several, feed the same part.
    Raises ValueError where two processes share some of their rows only.
    """
    held: dict[int, set[int]] = {}
    blocks = np.arange(math.prod(mesh.devices.shape[: len(BATCH_AXES)])).reshape(mesh.devices.shape[: len(BATCH_AXES)])
    for place, device in np.ndenumerate(mesh.devices):
        held.setdefault(device.process_index, set()).add(int(blocks[place[: len(BATCH_AXES)]]))
    parts = sorted({tuple(sorted(rows)) for rows in held.values()})
    if sum(map(len, parts)) != blocks.size or len({len(part) for part in parts}) > 1:
        shape = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, mesh.devices.shape, strict=True) if size > 1)
        raise ValueError(
            f"mesh: {shape} gives some processes a part of the rows of others; make context x tensor a multiple of a "
            "process's devices, or a divisor"
        )
    return parts.index(tuple(sorted(held[process]))), len(parts)


def place_rows(x: np.ndarray, sharding: NamedSharding, count: int) -> jax.Array:
    """The global array of which this process has one of `count` parts of the rows, and of these rows everything."""
    return jax.make_array_from_process_local_data(sharding, x, (len(x) * count, *x.shape[1:]))
