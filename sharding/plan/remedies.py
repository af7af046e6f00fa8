"""What to try where a step does not fit: fields of the config, with what each may save of a device.

Estimates: the state of training is cut in proportion to the axis that cuts it, temporaries in proportion to the slots
that a device holds. The program decides; plan again with the change.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from sharding.plan.plan import Memory

_STATE = ("parameters", "optimiser", "average")


@dataclasses.dataclass(frozen=True)
class Remedy:
    """`field` set to `value`; `peak`: estimated bytes of a device then."""

    field: str
    value: str
    peak: float
    why: str


def remedies(
    memory: Memory, mesh: Mapping[str, int], *, phase: str, model: str, rows: int, remat: str, accumulate: int
) -> list[Remedy]:
    """Those that should fit first, and among them those that cost least. rows: of a batch."""
    state = sum(memory.arguments.get(name, 0.0) for name in _STATE)
    temporaries, peak = memory.temporaries, memory.peak
    batch = mesh["data"] * mesh["fsdp"] * mesh["expert"]
    found = []
    if mesh["data"] > 1:
        whole = mesh["data"] * mesh["fsdp"]
        saved = state * (1 - 1 / mesh["data"])
        found.append(Remedy("mesh.fsdp", f"{whole} and mesh.data = 1", peak - saved, "slices of the state, not copies"))
    if rows // accumulate >= 2 * batch:
        kept = memory.arguments.get("parameters", 0.0)  # gradients wait for those of the other rows
        why = "fewer rows at a time"
        found.append(Remedy(f"phases.{phase}.accumulate", str(2 * accumulate), peak - temporaries / 2 + kept, why))
    if remat != "block":
        saved = temporaries * (0.8 if remat == "none" else 0.5)
        found.append(Remedy(f"models.{model}.remat", "'block'", peak - saved, "layers are computed again, not kept"))
    axis = max(("data", "expert", "fsdp"), key=lambda name: (mesh[name] > 1, name == "data"))
    if mesh[axis] % 2 == 0 and rows % 2 == 0:
        grown = state if axis == "fsdp" else 0.0
        value = f"{2 * mesh['context']}, mesh.{axis} = {mesh[axis] // 2} and half of the batch_size"
        found.append(Remedy("mesh.context", value, peak - temporaries / 2 + grown, "half of a row's slots on a device"))
    num_devices = math.prod(mesh.values())
    value = f"{2 * num_devices} devices with mesh.fsdp = {2 * mesh['fsdp']}"
    value += "" if rows % (2 * batch) == 0 else " and twice the batch_size"
    halved = temporaries / 2 if rows % (2 * batch) == 0 else 0.0
    found.append(Remedy("--topology", value, peak - state / 2 - halved, "the state is cut in twice as many slices"))
    better = [remedy for remedy in found if remedy.peak < peak]
    return sorted(better, key=lambda remedy: remedy.peak > memory.capacity)
