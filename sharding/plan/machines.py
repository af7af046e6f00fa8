"""Published figures of the devices that plans are made for; all are of one JAX device, in bytes and seconds.

Peaks are data sheet figures for dense bfloat16. Networks count one direction, as collectives send: half of the
bidirectional bandwidth that the vendors print. A cube of 4 x 4 x 4 and all larger ones are closed to tori by light;
of v6e only whole sides of 16 are.
"""

from __future__ import annotations

import dataclasses

GB, GIB = 1e9, float(2**30)

_CLOUD = "https://docs.cloud.google.com/tpu/docs/"


@dataclasses.dataclass(frozen=True)
class Machine:
    """memory: bytes of a device. flops, bandwidth: of its matrix units and its memory, a second.

    link: bytes a second that one link of the torus sends, one way (TPU), or that a device sends to all others of its
        host together (GPU). slow: what a device sends between slices or hosts.
    closes: chips along a side of the torus from which on its ends are joined; 0 where there is no torus.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float
    slow: float
    closes: int
    source: str

    @property
    def torus(self) -> bool:
        return self.closes > 0


MACHINES = {
    "v5p": Machine("TPU v5p", 95 * GIB, 459e12, 2765 * GB, 100 * GB, 6.25 * GB, 4, _CLOUD + "v5p"),
    "v6e": Machine("TPU v6e", 32 * GIB, 918e12, 1638 * GB, 100 * GB, 12.5 * GB, 16, _CLOUD + "v6e"),
    # A chip is two devices, which share its memory and links.
    "tpu7x": Machine("TPU7x", 96 * GIB, 1153.5e12, 3690 * GB, 50 * GB, 6.25 * GB, 4, _CLOUD + "tpu7x"),
    "h200": Machine(
        "NVIDIA H200 SXM",
        141 * GB,
        989.5e12,
        4800 * GB,
        450 * GB,
        50 * GB,  # one 400 Gbit/s adapter for each device, as in DGX H200
        0,
        "https://www.nvidia.com/en-us/data-center/h200 (half of the FLOP/s with sparsity); adapters: "
        "https://github.com/mlcommons/inference_results_v4.1, closed/NVIDIA/systems/H200-SXM-141GBx8_TRT_MaxQ.json",
    ),
}
