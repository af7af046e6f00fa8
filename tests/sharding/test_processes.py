from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from sharding.processes import ProcessConfig, from_environment, host_count, host_index, row_share, start
from tests.ports import free_port


def test_nothing_is_asked_for_so_nothing_is_started():
    config = from_environment({})
    assert config == ProcessConfig()
    start(config)
    assert (host_index(), host_count()) == (0, 1)


def test_the_environment_names_the_coordinator_and_this_process():
    environment = {"KINEMA_COORDINATOR": "node0:1234", "KINEMA_PROCESS_COUNT": "4", "KINEMA_PROCESS_INDEX": "3"}
    assert from_environment(environment) == ProcessConfig("node0:1234", 4, 3)
    assert from_environment({"KINEMA_COORDINATOR": "auto"}) == ProcessConfig("auto")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"KINEMA_COORDINATOR": "node0"}, "coordinator is 'node0'; allowed: '', 'auto' or 'host:port'"),
        ({"KINEMA_COORDINATOR": "node0:1"}, "needs count and index"),
        ({"KINEMA_PROCESS_COUNT": "2"}, "have no effect"),
        ({"KINEMA_PROCESS_COUNT": "two"}, "KINEMA_PROCESS_COUNT is 'two'; it must be a whole number"),
        (
            {"KINEMA_COORDINATOR": "node0:1", "KINEMA_PROCESS_COUNT": "2", "KINEMA_PROCESS_INDEX": "2"},
            "index is 2; it must be 0 .. count - 1 = 1",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(environment, message):
    with pytest.raises(ValueError, match=message):
        from_environment(environment)


TWO_PROCESSES = """
import jax, jax.numpy as jnp
from jax.experimental import multihost_utils
from sharding import processes
processes.start(processes.from_environment())
everyone = multihost_utils.process_allgather(jnp.array(processes.host_index() + 1))
print(processes.host_index(), processes.host_count(), everyone.tolist())
"""


def test_two_processes_find_each_other():
    port = free_port()
    root = pathlib.Path(__file__).parents[2]
    common = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
        "KINEMA_COORDINATOR": f"127.0.0.1:{port}",
        "KINEMA_PROCESS_COUNT": "2",
    }
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES],
            cwd=root,
            env=common | {"KINEMA_PROCESS_INDEX": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [run.communicate(timeout=120) for run in runs]
    assert [out.splitlines()[-1:] for out, _ in outputs] == [["0 2 [1, 2]"], ["1 2 [1, 2]"]], outputs


def mesh(processes, **sizes):
    """A mesh of devices that know their process, told by the place of each device in the mesh."""
    shape = [sizes.get(axis, 1) for axis in ("data", "fsdp", "expert", "context", "tensor")]
    devices = np.array([SimpleNamespace(process_index=index) for index in processes], object)
    return SimpleNamespace(devices=devices.reshape(shape))


@pytest.mark.parametrize(
    ("processes", "sizes", "shares"),
    [
        ([0, 0, 1, 1], {"data": 4}, [(0, 2), (1, 2)]),
        ([0, 0, 1, 1], {"data": 2, "fsdp": 2}, [(0, 2), (1, 2)]),
        ([0, 1], {"tensor": 2}, [(0, 1), (0, 1)]),  # both hold all rows
        ([0, 1, 2, 3], {"data": 2, "context": 2}, [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ([0, 0, 1, 1], {"data": 2, "tensor": 2}, [(0, 2), (1, 2)]),
        ([1, 0, 0, 1], {"data": 4}, [(1, 2), (0, 2)]),  # neighbours in the machine need not follow one another
    ],
)
def test_every_process_feeds_the_rows_that_its_devices_hold(processes, sizes, shares):
    of = mesh(processes, **sizes)
    assert [row_share(of, process) for process in range(len(shares))] == shares


@pytest.mark.parametrize("processes", [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]])
def test_processes_that_would_share_rows_in_part_or_unequally_are_refused(processes):
    with pytest.raises(ValueError, match="mesh: data=3, tensor=2 gives some processes a part of the rows"):
        row_share(mesh(processes, data=3, tensor=2), 0)
