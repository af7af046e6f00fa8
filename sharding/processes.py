"""Start-up of one or many processes, each driving the devices of its host."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import jax

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


def start(config: ProcessConfig) -> None:
    """Joins the other processes; call once, before anything else of JAX. Does nothing for a single process."""
    if config.coordinator == DETECT:
        jax.distributed.initialize()
    elif config.coordinator:
        jax.distributed.initialize(config.coordinator, config.count, config.index)


def host_index() -> int:
    """Which process this is; process 0 writes what only one should write."""
    return jax.process_index()


def host_count() -> int:
    return jax.process_count()
