"""What the plans are to show, from their records alone: rings as long as their closed form, hidden or not, and flat
memory of recurrent and local layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from configs.command import load
from model.config import ModelConfig
from sharding.plan.machines import GIB
from sharding.plan.plan import Plan, Traffic
from train.sections import Sections, completed

BFLOAT16, FLOAT32 = 2, 4
TOLERANCE = 0.01
SHORT, LONG = "configs/hybrid_long.py:flat_1m", "configs/hybrid_long.py:flat_10m"


@dataclasses.dataclass(frozen=True)
class Ring:
    """Keys and values of all global layers on their way round the context axis, in one step of one device.

    sent: bytes counted in the program. closed: bytes by `ring_bytes`. network: seconds of the link that sends them.
    overlapped: share of them that the schedule puts beside compute. compute: seconds of the global layers' attention,
    recomputation included.
    """

    shards: int
    layers: int
    sent: float
    closed: float
    network: float
    overlapped: float
    compute: float

    @property
    def hidden(self) -> bool:
        """All of the journey is scheduled beside compute, and no longer than what it is to be hidden behind."""
        return self.overlapped > 0.99 and self.network <= self.compute


def ring_of(config: str, plan: Plan) -> Ring | None:
    """None without global layers, or with fewer than three shards: of two, any exchange looks like a ring."""
    model = _model(config)
    layers, shards = model.mixers.count("global"), plan.mesh["context"]
    if not layers or shards < 3:
        return None
    lines = [line for line in plan.traffic if _is_ring(line)]
    sent, seconds = sum(line.sent for line in lines), sum(line.seconds for line in lines)
    return Ring(
        shards=shards,
        layers=layers,
        sent=sent,
        closed=ring_bytes(model, plan),
        network=seconds,
        overlapped=sum(line.seconds * line.overlapped for line in lines) / seconds if seconds else 0.0,
        compute=_attention_flops(model, plan) / plan.num_devices / plan.machine.flops,
    )


def ring_bytes(model: ModelConfig, plan: Plan) -> float:
    """Keys and values go to n - 1 shards in bfloat16, in the forward pass and in the backward pass; their gradients go
    all the way round, n times, in float32. A rematerialised layer sends keys and values once more, but for the first
    hop, which is the backward pass's too."""
    mesh, attention = plan.mesh, model.attention("global")
    rows = plan.rows / (mesh["data"] * mesh["fsdp"] * mesh["expert"])
    heads, shards = attention.num_kv_heads / mesh["tensor"], mesh["context"]
    numbers = 2 * rows * plan.slots / shards * heads * attention.head_dim  # keys and values of one shard and layer
    hops = 3 * (shards - 1) - 1 if model.remat == "block" else 2 * (shards - 1)
    return model.mixers.count("global") * numbers * (hops * BFLOAT16 + shards * FLOAT32)


def _attention_flops(model: ModelConfig, plan: Plan) -> float:
    """As `model.flops.train_flops` counts: forward, twice that backward, one product again, and the forward again
    where layers are rematerialised."""
    attention = model.attention("global")
    pairs = plan.rows * plan.slots * (plan.slots + 1) / 2
    forward = model.mixers.count("global") * pairs * 4 * attention.num_heads * attention.head_dim
    return forward * (3.5 + (model.remat == "block"))


def _is_ring(line: Traffic) -> bool:
    return (line.kind, line.pattern, line.axes) == ("collective-permute", "ring", "context")


def _model(config: str) -> ModelConfig:
    settings = completed(load(config))
    sections = Sections.of(settings)
    plain = settings.to_dict()
    return sections.models[plain["phases"][plain["train"]["phases"][0]]["model"]]


def flatness(plans: Mapping[str, Plan]) -> tuple[float, float] | None:
    """GiB of a device for 1M and for 10M slots; None where a plan is not there."""
    if SHORT not in plans or LONG not in plans:
        return None
    return plans[SHORT].memory.peak / GIB, plans[LONG].memory.peak / GIB


def render(plans: Mapping[str, Plan]) -> str:
    rings = {config: ring for config, plan in plans.items() if (ring := ring_of(config, plan))}
    lines = [
        "Ring attention. Closed form: keys and values to n - 1 shards in bfloat16, three times (forward, again for the",
        "rematerialised layer, backward) with one hop in common, and their float32 gradients n times. Network: one",
        "link, one way. Compute: attention of the global layers at the matrix units' peak. Hidden: each permutation",
        "of the ring is an asynchronous pair with compute between start and end in the compiled schedule, and all take",
        "no longer than that attention.",
        "",
        "| config | slots | shards | global layers | GB the ring sends | closed form | off by | overlapped | network "
        "| compute | hidden |",
        "|---" * 11 + "|",
    ]
    lines += [
        f"| {config.removeprefix('configs/')} | {plans[config].slots:,} | {ring.shards} | {ring.layers} "
        f"| {ring.sent / 1e9:.3f} | {ring.closed / 1e9:.3f} | {ring.sent / ring.closed - 1:+.1%} "
        f"| {ring.overlapped:.0%} | {ring.network:.3g} s | {ring.compute:.3g} s | {'yes' if ring.hidden else 'no'} |"
        for config, ring in rings.items()
    ]
    if flat := flatness(plans):
        lines += [
            "",
            f"Memory of recurrent and local layers: {flat[0]:.2f} GiB of a device for 1.3 M slots on "
            f"{plans[SHORT].num_devices} devices, {flat[1]:.2f} GiB for 10.5 M slots on {plans[LONG].num_devices} "
            f"({flat[1] / flat[0] - 1:+.1%}).",
        ]
    return "\n".join(lines) + "\n"
