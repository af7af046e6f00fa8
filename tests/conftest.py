"""Fixtures that tests of several folders share."""

import ctypes.util
import os
import pathlib
import sys

# The simulator of a GPU runs each of its threads on a thread of XLA's pool, and they wait for one another: with a pool
# as small as two cores make it, all can end up waiting for one that never gets a turn. XLA reads this once.
os.environ.setdefault("NPROC", "16")

import hypothesis
import jax
import pytest

from model.startup import fast_cpu_products

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no error
hypothesis.settings.load_profile("untimed")
fast_cpu_products()  # as every program of the stack does, before a device is used

# Packaged simulators draw by OpenGL without a display; without a library for it they hang or fail when imported.
HAS_OPENGL = (
    sys.platform != "linux" or bool(ctypes.util.find_library("OSMesa")) or pathlib.Path("/dev/nvidia0").exists()
)
PACKAGED_SIMULATORS = (
    *(f"eval/envs/test_{name}.py" for name in ("aloha_expert", "fetch_expert", "fetch_slide", "ogbench_expert")),
    *("eval/envs/test_registry.py", "eval/envs/test_simulators.py", "eval/jobs/test_packaged_suites.py"),
    *("eval/rollout/test_rollout.py", "benchmarks/test_simulators.py"),
)
collect_ignore = [] if HAS_OPENGL else list(PACKAGED_SIMULATORS)


def pytest_report_header():
    return None if HAS_OPENGL else "no OpenGL without a display (libosmesa6): tests of packaged simulators are left out"


@pytest.fixture(scope="module")
def quick_compilation():
    """Compile without XLA's costly passes: for modules whose time goes into compiling many tiny programs once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # what was compiled so rounds differently; no other module may meet it


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """Tokens are cached in a folder of the test's own, and the machine's speed is given rather than measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.rows.CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr("train.metrics.peak_flops", lambda: (1e9, "given"))
        yield
