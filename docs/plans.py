"""`python -m docs.plans > docs/plans.md` writes the page of plans from docs/plans/*.json.

    python -m docs.plans --missing      # first compiles what PLANS names and docs/plans lacks, one after another

The compilers are in the environment that `make aot` makes. A plan takes a minute of one core.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

from docs import plan_bars
from sharding.plan.machines import GIB, MACHINES
from sharding.plan.plan import Plan

FOLDER = pathlib.Path(__file__).with_name("plans")
GEMMA, PROXY, HYBRID = "configs/gemma3_long.py", "configs/gemini15_proxy.py", "configs/hybrid_long.py"
# Config -> machine
PLANS = {
    f"{GEMMA}:1b_32k": "v5p:4x4x4",
    f"{GEMMA}:4b_32k": "v5p:4x4x4",
    f"{GEMMA}:12b_32k": "v5p:4x8x8",
    f"{GEMMA}:27b_32k": "v5p:8x8x8",
    f"{GEMMA}:1b_128k": "v5p:4x4x4",
    f"{GEMMA}:4b_128k": "v5p:4x4x4",
    f"{GEMMA}:12b_128k": "v5p:4x8x8",
    f"{GEMMA}:27b_128k": "v5p:8x8x8",
    f"{GEMMA}:27b_32k_slices": "v5p:8x8x8@2",
    PROXY: "v5p:16x16x16",
    f"{HYBRID}:1m": "v5p:4x8x16",
    f"{HYBRID}:10m": "v5p:16x16x16",
    f"{HYBRID}:flat_1m": "v5p:4x8x16",
    f"{HYBRID}:flat_10m": "v5p:16x16x16",
}
HEAD = """# Plans

Made by `python -m docs.plans > docs/plans.md` from docs/plans/*.json, each of which `python -m sharding.plan` wrote;
beside each lies a picture of where memory and time go. Nothing here was run: every figure comes from the train step
compiled ahead of time for machines that were not there.

- GiB: arguments and temporaries of one device, as the compiler allots them, without the machine code.
- Seconds: a lower bound, `sharding.plan.roofline`. Matrix units and memory run at their data sheets' peaks beside each
  other, and so do collectives that the schedule overlaps; the others come on top. MFU is what that step would give.
- GB sent: by each device in a step, by axis of the mesh, counted in the compiled program, loops included. A permutation
  is a `ring` (each to its neighbour, the last to the first), a `shift` (halos and carries) or a `shuffle` (zigzag).
- Overlapped: the compiled schedule has work between the collective's start and its end; whether it is enough work is
  said for rings alone.
- Compile: CPU seconds to the schedule (`--schedule`), all threads together, on two cores that others used too. With
  machine code `gemma3_long.py:1b_32k` takes 275 and `4b_128k` 325: same times and traffic. Memory is then given as 9.4
  and 17.7 GiB, not 7.0 and 14.0: code (0.3), the chip's own memory (0.1), and 2 to 3 that the compiler's report of
  buffers does not have.
"""


def name_of(config: str) -> str:
    """The file of a plan, without suffix: gemma3_long_4b_32k."""
    path, _, variant = config.partition(":")
    return "_".join(part for part in (pathlib.Path(path).stem, variant) if part)


def made() -> dict[str, Plan]:
    """The plans that there are, by config."""
    found = {config: FOLDER / f"{name_of(config)}.json" for config in PLANS}
    return {config: Plan.from_dict(json.loads(path.read_text())) for config, path in found.items() if path.exists()}


def render() -> str:
    """The whole page."""
    plans = made()
    rows = ["| config | parameters | tokens a step | machine | mesh | GiB of a device | compute | memory | networks |"]
    rows[0] += " step | bound by | MFU | compile |"
    rows.append("|---" * 13 + "|")
    rows += [_row(config, plan) for config, plan in plans.items()]
    traffic = ["| config | kind | axes | devices | runs | GB sent | seconds | overlapped |", "|---" * 8 + "|"]
    traffic += [line for config, plan in plans.items() for line in _traffic(config, plan)]
    missing = [config for config in PLANS if config not in plans]
    told = [f"\nNot yet made: {', '.join(f'`{config}`' for config in missing)}.\n"] if missing else []
    machines = [
        "| machine | GiB | TFLOP/s | GB/s memory | GB/s a link | GB/s slow network | source |",
        "|---" * 7 + "|",
    ]
    machines += [
        f"| {m.name} | {m.memory / GIB:.0f} | {m.flops / 1e12:.1f} | {m.bandwidth / 1e9:.0f} | {m.link / 1e9:.0f} | "
        f"{m.slow / 1e9:.4g} | {m.source} |"
        for m in MACHINES.values()
    ]
    bars = ("\n## Rings and memory\n", plan_bars.render(plans).rstrip())
    sections = ("", *rows, *told, *bars, "\n## Collectives\n", *traffic, "\n## Machines\n", *machines)
    return HEAD + "\n".join(sections) + "\n"


def _row(config: str, plan: Plan) -> str:
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1)
    seconds = plan.seconds
    cells = [
        f"[{config.removeprefix('configs/')}](plans/{name_of(config)}.png)",
        f"{plan.parameters / 1e9:.3g} B",
        f"{plan.rows * plan.slots / 1e6:.1f} M",
        f"{plan.num_devices} x {plan.machine.name} ({plan.topology})",
        mesh,
        f"{plan.memory.peak / GIB:.1f} of {plan.memory.capacity / GIB:.0f}",
        *(f"{x:.3g} s" for x in (seconds.compute, seconds.memory, seconds.fast_network + seconds.slow_network)),
        f"{seconds.step:.3g} s",
        seconds.bound,
        f"{plan.mfu:.0%}",
        f"{plan.compile_seconds:.0f} s",
    ]
    return "| " + " | ".join(cells) + " |"


def _traffic(config: str, plan: Plan) -> list[str]:
    """Kinds that send at least a hundredth of all bytes."""
    total = sum(line.sent for line in plan.traffic)
    return [
        f"| {name_of(config)} | {line.kind} {line.pattern} | {line.axes} | {line.group} | {line.times:.0f} "
        f"| {line.sent / 1e9:.3g} | {line.seconds:.3g} | {line.overlapped:.0%} |"
        for line in plan.traffic
        if line.sent >= total / 100
    ]


def make(config: str) -> None:
    """Compiles one in a process of its own."""
    out = FOLDER / name_of(config)
    command = [
        sys.executable,
        "-m",
        "sharding.plan",
        "--config",
        config,
        "--topology",
        PLANS[config],
        "--schedule",
        "--out",
        str(out),
    ]
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m docs.plans")
    parser.add_argument("--missing", action="store_true", help="compile the plans that are not there yet")
    if parser.parse_args().missing:
        for config in [config for config in PLANS if config not in made()]:
            make(config)
    print(render(), end="")
