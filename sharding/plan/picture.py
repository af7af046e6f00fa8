"""Where memory and time of a plan go, as a figure."""

from __future__ import annotations

import pathlib

from sharding.plan.machines import GIB
from sharding.plan.plan import Plan


def draw(plan: Plan, path: pathlib.Path) -> None:
    """Writes a PNG: one bar of memory against what the device has, and one bar of time for each resource."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(1, 1), layout="constrained")
    start = 0.0
    for name, size in [*plan.memory.arguments.items(), ("temporaries", plan.memory.temporaries)]:
        left.barh([0], [size / GIB], left=[start / GIB], label=f"{name} {size / GIB:.1f}")
        start += size
    left.axvline(plan.memory.capacity / GIB, color="black", linestyle="--")
    left.set_yticks([])
    left.set_xlabel("GiB of a device; dashed: what it has")
    left.set_xlim(0, 1.05 * max(plan.memory.capacity, plan.memory.peak) / GIB)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=3, frameon=False)

    networks = _networks(plan)
    bars = {"compute": plan.seconds.compute, "memory": plan.seconds.memory, **networks}
    bars["step as scheduled"] = plan.seconds.step
    right.barh(list(bars), list(bars.values()), color=["C0", "C1", *["C2"] * len(networks), "C3"])
    right.margins(x=0.08)
    right.invert_yaxis()
    right.set_xlabel("seconds of a step, at least")
    figure.suptitle(f"{plan.title} on {plan.topology}")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _networks(plan: Plan) -> dict[str, float]:
    """Seconds by network and axes; what takes under a hundredth of the step is one bar."""
    found: dict[str, float] = {}
    for line in plan.traffic:
        name = f"{line.network} network, {line.axes}" if line.axes else f"{line.network} network"
        found[name] = found.get(name, 0.0) + line.seconds
    few = {name: seconds for name, seconds in found.items() if seconds < plan.seconds.step / 100}
    large = {name: seconds for name, seconds in found.items() if name not in few}
    return large | ({"networks, other axes": sum(few.values())} if few else {})
