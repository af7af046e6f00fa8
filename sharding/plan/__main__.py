"""Plan the train step of a config for a machine that is not there; see the package.

    python -m sharding.plan --config configs/gemma3_long.py:1b_32k --topology v5p:4x4x4 [--schedule]

Prints a table and writes <out>.json and <out>.png. Exit status 1 where the step does not fit, with what to try first.
`--schedule` leaves out machine code, most of a TPU compiler's work: minutes become seconds, times and traffic stay the
same, and memory is what the compiler allots to buffers, without the code (docs/plans.md compares both).
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # else JAX looks for real accelerators first

import copy
import re
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from configs.command import run, sort_arguments
from sharding.plan.machines import GIB, MACHINES
from sharding.plan.picture import draw
from sharding.plan.plan import Memory, Plan, plan_of
from sharding.plan.remedies import Remedy, remedies
from sharding.plan.report import show, write_json
from sharding.plan.schedule import schedule
from sharding.plan.sweep import candidates, show_ranking
from sharding.topology import Topology, topology
from train.ahead import AbstractStep, abstract_step, completed, load_of

_TOPOLOGY = flags.DEFINE_string("topology", None, "Machine to plan for, such as v5p:4x4x4, v6e:16x16 or h200:4x8.")
_PHASE = flags.DEFINE_string("phase", None, "Phase whose step is planned; the first if not given.")
_OUT = flags.DEFINE_string("out", None, "Files to write, without suffix; <workdir>/plan-<topology> if not given.")
_SCHEDULE = flags.DEFINE_bool("schedule", False, "End where the program is scheduled, before machine code (TPUs).")
_SWEEP = flags.DEFINE_bool("sweep", False, "Try other mesh shapes, and rank them.")
_COMPILED = flags.DEFINE_integer("compiled", 3, "How many of the best mesh shapes --sweep compiles.", lower_bound=1)


def main(config: ConfigDict, workdir: Path) -> None:
    settings: Any = config
    if not _TOPOLOGY.value:
        raise ValueError("--topology is not given; name a machine, as in --topology v5p:4x4x4")
    machine = topology(_TOPOLOGY.value)
    phase = _PHASE.value or settings.train.phases[0]
    if _SWEEP.value:
        if _SCHEDULE.value:
            raise ValueError("--sweep compiles whole programs; leave out --schedule, or plan one mesh shape with it")
        sweep(config, phase, machine)
        return
    step = abstract_step(config, phase, machine.devices)
    make = scheduled if _SCHEDULE.value else planned
    plan = make(step, machine, title=_title())
    tips = [] if plan.memory.fits else tips_for(plan.memory, step, phase)
    show(plan, tips)
    out = Path(_OUT.value or workdir / f"plan-{re.sub('[:@]', '-', machine.name)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(plan, out.with_name(out.name + ".json"))
    draw(plan, out.with_name(out.name + ".png"))
    if tips:
        raise ValueError(_refusal(plan.memory, tips))


def planned(step: AbstractStep, machine: Topology, *, title: str) -> Plan:
    """Compiles the step. Raises ValueError where the compiler itself finds that it does not fit."""
    lowered = step.lower()
    start = time.process_time()  # of all threads, whatever else the machine does
    try:
        compiled = lowered.compile(compiler_options=machine.compiler_options or None)
    except Exception as error:
        memory = _exhausted(str(error), step.argument_bytes)
        if memory is None:
            raise
        raise ValueError(_refusal(memory, tips_for(memory, step, step.name))) from error
    seconds = time.process_time() - start
    stats = compiled.memory_analysis()
    assert stats is not None
    alive = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    peak = alive + stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
    return _plan(compiled.as_text(), step, machine, peak_bytes=peak, compile_seconds=seconds, title=title)


def scheduled(step: AbstractStep, machine: Topology, *, title: str) -> Plan:
    """The same from the schedule alone, which this command makes in another process. Raises ValueError as `planned`."""
    if machine.abstract_device.platform != "tpu":
        raise ValueError(f"--schedule reads what compilers for TPUs write down; leave it out for {machine.name}")
    found = schedule([sys.executable, "-m", "sharding.plan", *sys.argv[1:], "--noschedule"])
    return _plan(found.text, step, machine, peak_bytes=found.peak_bytes, compile_seconds=found.cpu_seconds, title=title)


def _plan(text: str, step: AbstractStep, machine: Topology, **facts: Any) -> Plan:
    return plan_of(
        text,
        step.mesh,
        MACHINES[machine.name.partition(":")[0]],
        argument_bytes=step.argument_bytes,
        hardware_flops=step.hardware_flops,
        model_flops=step.model_flops,
        topology=machine.name,
        rows=step.phase.pipeline.batch_size,
        slots=step.phase.pipeline.slots,
        parameters=step.num_parameters,
        **facts,
    )


def sweep(config: ConfigDict, phase: str, machine: Topology) -> None:
    """Prints the ranking. Raises ValueError where no mesh shape fits."""
    figures = MACHINES[machine.name.partition(":")[0]]
    found = candidates(load_of(config, phase), len(machine.devices), figures)
    if not found:
        raise ValueError(
            f"no mesh shape of {len(machine.devices)} devices cuts rows, slots and parameters evenly and fits; set "
            f"config.phases.{phase}.pipeline.batch_size to a multiple of the devices, or plan for a larger --topology"
        )
    plans = []
    for candidate in found[: _COMPILED.value]:
        changed: Any = copy.deepcopy(config)
        changed.mesh.update(candidate.mesh)
        try:
            plans.append(planned(abstract_step(changed, phase, machine.devices), machine, title=_title()))
        except ValueError as error:
            print(f"{candidate.mesh}: {error}", file=sys.stderr)
    show_ranking(plans, found[_COMPILED.value :][:10])


def tips_for(memory: Memory, step: AbstractStep, phase: str) -> list[Remedy]:
    settings = step.phase
    return remedies(
        memory,
        dict(step.mesh.shape),
        phase=phase,
        model=settings.model,
        rows=settings.pipeline.batch_size,
        remat=step.model.remat,
        accumulate=settings.accumulate,
    )


def _exhausted(message: str, arguments: dict[str, float]) -> Memory | None:
    """What a TPU's compiler says where the program does not fit: "Used 120.31G of 95.74G hbm"."""
    found = re.search(r"Used ([\d.]+)([MGT]) of ([\d.]+)([MGT]) hbm", message)
    if not found:
        return None
    used, capacity = (
        float(n) * {"M": 2**20, "G": GIB, "T": 2**40}[unit] for n, unit in (found.groups()[:2], found.groups()[2:])
    )
    return Memory(arguments, max(used - sum(arguments.values()), 0.0), capacity)


def _refusal(memory: Memory, tips: list[Remedy]) -> str:
    first = "; or ".join(f"config.{t.field} = {t.value} (about {t.peak / GIB:.1f} GiB)" for t in tips[:3])
    return (
        f"the step needs {memory.peak / GIB:.1f} GiB of a device that has {memory.capacity / GIB:.1f}; try "
        f"{first or 'a larger --topology'}".replace("config.--", "--")
    )


def _title() -> str:
    """The config as it was named on the command line."""
    path = sort_arguments(sys.argv)[0]
    return Path(path).name if path else "plan"


if __name__ == "__main__":
    run(main, completed)
