"""What Mosaic GPU and ptxas print about a kernel, as figures.

With MOSAIC_GPU_DUMP_PTXAS ptxas tells registers, spills and static shared memory; with MOSAIC_GPU_DUMP_HOST_LLVM
Mosaic prints the code that launches, where dynamic shared memory stands beside the grid and the threads.
"""

from __future__ import annotations

import dataclasses
import re

__all__ = ["DUMPS", "Kernel", "read"]

DUMPS = {"MOSAIC_GPU_DUMP_PTXAS": "1", "MOSAIC_GPU_DUMP_HOST_LLVM": "1"}

_ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
_MESSAGE = re.compile(r"\((C\d+)\) Potential Performance Loss: (.*)")
# The kernel, then grid, cluster and threads in three dims each, then bytes of dynamic shared memory.
_LAUNCH = re.compile(r"@mosaic_gpu_(?:launch_kernel|build_kernel_spec)\(ptr \S+" + r", i32 (\d+)" * 10)


@dataclasses.dataclass
class Kernel:
    """One kernel: registers per thread, bytes otherwise. `messages` are ptxas' warnings of lost performance."""

    name: str
    target: str
    registers: int = 0
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    static_smem: int = 0
    dynamic_smem: int = 0
    grid: tuple[int, ...] = ()
    threads: int = 0
    messages: list[str] = dataclasses.field(default_factory=list)

    @property
    def smem(self) -> int:
        return self.static_smem + self.dynamic_smem


def read(text: str) -> list[Kernel]:
    """The kernels in the order of compilation; messages stand before the kernel they are about, its launch after it."""
    kernels: list[Kernel] = []
    messages: list[str] = []
    for line in text.splitlines():
        if found := _MESSAGE.search(line):
            messages.append(f"{found[1]}: {found[2].strip()}")
        elif found := _ENTRY.search(line):
            name = found[1].removesuffix("_kernel").removesuffix("_mosaic_gpu")
            kernels.append(Kernel(name, found[2], messages=messages))
            messages = []
        elif not kernels:
            continue
        elif found := _SPILLS.search(line):
            kernels[-1].stack, kernels[-1].spill_stores, kernels[-1].spill_loads = map(int, found.groups())
        elif found := _USED.search(line):
            kernels[-1].registers, kernels[-1].static_smem = int(found[1]), int(found[2] or 0)
        elif found := _LAUNCH.search(line):
            numbers = [int(number) for number in found.groups()]
            kernels[-1].grid, kernels[-1].dynamic_smem = tuple(numbers[:3]), numbers[9]
            kernels[-1].threads = numbers[6] * numbers[7] * numbers[8]
    return kernels
