"""Fixtures that tests of several folders share."""

import os

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
