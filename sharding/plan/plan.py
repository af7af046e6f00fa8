"""One plan: what a step takes of each device, put together from its compiled program and the figures of a machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sharding.mesh import slices_of
from sharding.plan.collectives import Collective, collectives
from sharding.plan.hlo import parse
from sharding.plan.loops import runs
from sharding.plan.machines import Machine
from sharding.plan.roofline import cost_of
from sharding.plan.work import work


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device. `arguments`: what is there when a step begins, by what it is.

    temporaries: live besides at the fullest moment, the program itself and what of the results is not written over the
        arguments included. capacity: what the device has.
    """

    arguments: dict[str, float]
    temporaries: float
    capacity: float

    @property
    def peak(self) -> float:
        return sum(self.arguments.values()) + self.temporaries

    @property
    def fits(self) -> bool:
        return self.peak <= self.capacity


@dataclasses.dataclass(frozen=True)
class Traffic:
    """All collectives of one kind and pattern along the same axes. sent: bytes that each device sends in a step.

    count: in the program. times: runs in a step. overlapped: share of `seconds` that the schedule puts beside compute.
    """

    kind: str
    pattern: str
    axes: str
    group: int
    network: str
    count: int
    times: float
    sent: float
    seconds: float
    overlapped: float


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Lower bounds of a step: each resource alone. `exposed`: networks that nothing is computed beside."""

    compute: float
    memory: float
    fast_network: float
    slow_network: float
    exposed: float

    @property
    def bound(self) -> str:
        alone = {"compute": self.compute, "memory": self.memory}
        alone |= {"fast network": self.fast_network, "slow network": self.slow_network}
        return max(alone, key=lambda name: alone[name])

    @property
    def step(self) -> float:
        """As the program is scheduled: what is not overlapped comes on top, nothing waits for anything else."""
        hidden = self.fast_network + self.slow_network - self.exposed
        return max(self.compute, self.memory, hidden) + self.exposed

    @property
    def ideal(self) -> float:
        """If all of it overlapped."""
        return max(self.compute, self.memory, self.fast_network, self.slow_network)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A step on a machine. FLOPs are of all devices together, `compiled_flops` of the matmuls of one device's program.

    kernels: runs of each Pallas kernel in a step. unknown_loops: whose length depends on data; counted as one trip.
    compile_seconds: of one CPU, all threads of the compiling process together.
    """

    title: str
    topology: str
    machine: Machine
    mesh: dict[str, int]
    rows: int
    slots: int
    parameters: int
    memory: Memory
    seconds: Seconds
    traffic: list[Traffic]
    model_flops: float
    hardware_flops: float
    compiled_flops: float
    traffic_bytes: float
    kernels: dict[str, float]
    unknown_loops: int
    compile_seconds: float

    @property
    def num_devices(self) -> int:
        count = 1
        for size in self.mesh.values():
            count *= size
        return count

    @property
    def mfu(self) -> float:
        """Of the step time as scheduled, so no run of this program does better."""
        return self.model_flops / self.num_devices / self.machine.flops / self.seconds.step

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it again."""
        return dataclasses.asdict(self) | {
            "peak_bytes": self.memory.peak,
            "fits": self.memory.fits,
            "step_seconds": self.seconds.step,
            "bound": self.seconds.bound,
            "mfu": self.mfu,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Plan:
        fields = {field.name: plain[field.name] for field in dataclasses.fields(cls)}
        fields["machine"], fields["memory"] = Machine(**fields["machine"]), Memory(**fields["memory"])
        fields["seconds"] = Seconds(**fields["seconds"])
        fields["traffic"] = [Traffic(**line) for line in fields["traffic"]]
        return cls(**fields)


def plan_of(
    text: str,
    mesh: Any,
    machine: Machine,
    *,
    peak_bytes: float,
    argument_bytes: Mapping[str, float],
    hardware_flops: float,
    **facts: Any,
) -> Plan:
    """The plan of a compiled program.

    text: what `compiled.as_text()` gives. peak_bytes: of one device, arguments included. argument_bytes: of one device,
    by what they are. facts: the fields of `Plan` that the program does not tell.
    """
    program = parse(text)
    found = runs(program)
    done = work(program, found)
    shape = dict(mesh.shape)
    devices = list(mesh.devices.flat)
    sent = collectives(program, found, shape)
    traffic, seconds = _network(sent, devices, machine)
    num_devices = len(devices)
    arguments = dict(argument_bytes)
    return Plan(
        machine=machine,
        mesh=shape,
        memory=Memory(arguments, max(peak_bytes - sum(arguments.values()), 0.0), machine.memory),
        seconds=Seconds(
            compute=max(hardware_flops / num_devices, done.matmul_flops) / machine.flops,
            memory=done.traffic_bytes / machine.bandwidth,
            **seconds,
        ),
        traffic=traffic,
        hardware_flops=hardware_flops,
        compiled_flops=done.matmul_flops,
        traffic_bytes=done.traffic_bytes,
        kernels=done.kernels,
        unknown_loops=len(found.unknown),
        **facts,
    )


def _network(
    sent: Sequence[Collective], devices: Sequence[Any], machine: Machine
) -> tuple[list[Traffic], dict[str, float]]:
    place = {id(device): index for index, part in enumerate(slices_of(devices)) for device in part}
    slices = [place[id(device)] for device in devices]
    lines: dict[tuple[str, ...], list[tuple[Collective, float]]] = {}
    fast = slow = exposed = 0.0
    for collective in sent:
        cost = cost_of(collective, devices, slices, machine)
        fast, slow = fast + cost.fast * collective.times, slow + cost.slow * collective.times
        total = (cost.fast + cost.slow) * collective.times
        exposed += 0.0 if collective.overlapped else total
        network = "slow" if cost.slow else "fast"
        key = (collective.kind, collective.pattern, " x ".join(collective.axes), str(collective.group), network)
        lines.setdefault(key, []).append((collective, total))
    traffic = [
        Traffic(
            kind=kind,
            pattern=pattern,
            axes=axes,
            group=int(group),
            network=network,
            count=len(members),
            times=sum(c.times for c, _ in members),
            sent=sum(c.sent_in_step for c, _ in members),
            seconds=sum(total for _, total in members),
            overlapped=_share(members),
        )
        for (kind, pattern, axes, group, network), members in lines.items()
    ]
    seconds = {"fast_network": fast, "slow_network": slow, "exposed": exposed}
    return sorted(traffic, key=lambda line: -line.seconds), seconds


def _share(members: Sequence[tuple[Collective, float]]) -> float:
    total = sum(seconds for _, seconds in members)
    return sum(seconds for c, seconds in members if c.overlapped) / total if total else 0.0
