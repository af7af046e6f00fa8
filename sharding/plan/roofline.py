"""Lower bounds of a step's time: matrix units, memory, and each network, every one as if it had the step to itself.

A collective of n devices along sides of a torus uses the links of every side that its members differ in, in both
directions where the side closes to a ring; a permutation uses one link of each device, however many hops it takes.
Where members lie in several slices or hosts, the part that has to cross is reduced or gathered within the slice first,
so one in (members of a slice) bytes crosses (Jia et al. 2018, section 4).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sharding.plan.collectives import Collective, sent_bytes
from sharding.plan.machines import Machine


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds that one run of a collective takes of the fast and of the slow network."""

    fast: float
    slow: float


def cost_of(collective: Collective, devices: Sequence[Any], slices: Sequence[int], machine: Machine) -> Cost:
    """devices: of the mesh, flat. slices: which slice or host each of them is in."""
    members = collective.members
    inside: dict[int, list[int]] = {}
    for member in members:
        inside.setdefault(slices[member], []).append(member)
    largest = max(inside.values(), key=len)
    if collective.kind == "collective-permute":  # one receiver each, so one way out
        crosses = len(inside) > 1
        return Cost(0.0, collective.sent / machine.slow) if crosses else Cost(collective.sent / machine.link, 0.0)
    if len(inside) == 1:
        return Cost(collective.sent / fast_bandwidth([devices[m] for m in members], devices, machine), 0.0)
    share = len(largest)
    slow = sent_bytes(collective.kind, collective.payload, len(inside)) / share / machine.slow
    if share == 1:
        return Cost(0.0, slow)
    sent = sent_bytes(collective.kind, collective.payload, share)
    return Cost(sent / fast_bandwidth([devices[m] for m in largest], devices, machine), slow)


def fast_bandwidth(members: Sequence[Any], devices: Sequence[Any], machine: Machine) -> float:
    """Bytes a second that each member can send to the others of its slice."""
    if not machine.torus:
        return machine.link
    everywhere = _sides(devices)
    links = 0
    for own, whole in zip(_sides(members), everywhere, strict=True):
        if len(own) > 1:
            closed = len(own) == len(whole) and len(whole) >= machine.closes
            links += 2 if closed else 1
    return machine.link * max(links, 1)


def _sides(devices: Sequence[Any]) -> list[set[int]]:
    """The places that devices take along each side of the torus."""
    coordinates = [tuple(getattr(device, "coords", None) or (device.id,)) for device in devices]
    return [set(side) for side in zip(*coordinates, strict=True)]
