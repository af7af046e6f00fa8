"""`python -m benchmarks.aot.compiled CASE OUT TOPOLOGY...`: one case, compiled for each topology; figures as JSON.

What the compilers print goes where they print it: Mosaic writes from C++, so `python -m benchmarks.aot` reads the pipes
of the whole process.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
from typing import Any

import jax
from jax.sharding import AbstractMesh, SingleDeviceSharding, use_abstract_mesh

from benchmarks.aot.cases import CASES, Case
from pallas_kernels import assembler
from sharding.topology import Topology, topology


def compile_for(case: Case, machine: Topology) -> dict[str, Any]:
    """Compile seconds, bytes and FLOPs of a case, or the error it ends with."""
    backend = {"cuda": "gpu", "tpu": "tpu"}[machine.abstract_device.platform]
    sharding = SingleDeviceSharding(machine.devices[0])
    arguments = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for x in case.arguments]
    try:
        with use_abstract_mesh(AbstractMesh((), (), abstract_device=machine.abstract_device)):
            lowered = jax.jit(case.program(backend)).lower(*arguments)
        num_kernels = lowered.as_text().count("custom_call @mosaic_gpu" if backend == "gpu" else "@tpu_custom_call")
        began = time.perf_counter()
        compiled = lowered.compile(compiler_options=machine.compiler_options)
        seconds = time.perf_counter() - began
    except Exception as error:  # whatever a compiler objects to is a result
        refused = backend == case.fallback and str(error).startswith("backend: ")
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
        return {"fallback" if refused else "error": told}
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return {
        "seconds": round(seconds, 2),
        "num_kernels": num_kernels,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        **({"flops": cost["flops"]} if "flops" in cost else {}),
    }


def main(name: str, out: str, *machines: str) -> None:
    assembler.use_ptxas()
    results = {machine: compile_for(CASES[name], topology(machine)) for machine in machines}
    pathlib.Path(out).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
