"""Programs start with fast matrix products on a CPU, where XLA is known to have them, and keep the memory they had."""

import os
import platform
import subprocess
import sys

import pytest

from model.startup import fast_cpu_products

PROGRAM = """
import os, sys
import jax, numpy as np
from model.startup import fast_cpu_products
fast_cpu_products()
os.environ["XLA_FLAGS"] += sys.argv[1]
x_ND = np.random.default_rng(0).normal(size=(2048, 512)).astype(np.float32)
apart_DD = np.asarray(jax.jit(lambda x_ND: x_ND.T @ x_ND)(x_ND)) - x_ND.T.astype(np.float64) @ x_ND
print(np.abs(apart_DD).max())
"""

STEPS = """
import resource, sys
import jax
from model import startup
if sys.argv[1]:
    startup.keep_freed_memory()

@jax.jit
def step(x_DD):
    return (jax.lax.optimization_barrier(x_DD.T + 1) * jax.lax.optimization_barrier(x_DD + 1)).sum()

x_DD = jax.numpy.ones((3072, 3072))
faults = []
for _ in range(40):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x_DD).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(faults)[10])  # a freed block can be broken up once in a while, until there are enough small ones
"""


def run(more: str, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    unset = ("XLA_FLAGS", "GLIBC_TUNABLES")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, "-c", program, more], env=environment, capture_output=True, text=True)


def test_products_with_the_switch_are_float32_products():
    done = run("")
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 1e-2  # of sums of 2048 squares


def test_the_switch_is_read_although_jax_was_imported_before():
    assert "xla_no_such_switch" in run(" --xla_no_such_switch=1").stderr


@pytest.mark.parametrize("version", ["0.11.1", "0.13.0", "1.0"])
def test_versions_that_were_not_tried_get_no_switch(monkeypatch, version):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    fast_cpu_products(version)
    assert os.environ["XLA_FLAGS"] == "--xla_force_host_platform_device_count=2"


@pytest.mark.parametrize("version", ["0.11.2", "0.12.0.1"])
def test_what_the_user_set_stays(monkeypatch, version):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type= --xla_cpu_enable_fast_math=false")
    fast_cpu_products(version)
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_experimental_ynn_fusion_type= --xla_cpu_enable_fast_math=false"
    monkeypatch.delenv("XLA_FLAGS")
    fast_cpu_products(version)
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_experimental_ynn_fusion_type=dot"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no such switches")
def test_steps_run_in_the_memory_of_the_steps_before():
    pages = 3072**2 * 4 // os.sysconf("SC_PAGESIZE")  # of one temporary
    assert int(run("", STEPS).stdout) > pages
    assert int(run("keep", STEPS).stdout) < pages / 4
