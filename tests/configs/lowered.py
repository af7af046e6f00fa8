"""Lowers the steps of a config for four virtual devices: `python -m tests.configs.lowered configs/demo.py`.

Prints a line of JSON, phase -> "lowered" or why not. Nothing is read but the config, and nothing is run.
"""

from __future__ import annotations

import json
import sys

import jax

from configs.command import read
from train.ahead import abstract_step, completed

MESH = {"data": 2, "fsdp": 2}


def main(path: str) -> None:
    jax.config.update("jax_num_cpu_devices", 4)
    config = read(path, [], completed)
    config.mesh.update(MESH)
    outcomes = {}
    for name in config.train.phases:
        try:
            abstract_step(config, name, jax.devices()).lower()
            outcomes[name] = "lowered"
        except Exception as error:
            outcomes[name] = str(error)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
