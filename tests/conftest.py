"""Fixtures that tests of several folders share."""

import jax
import pytest


@pytest.fixture(scope="module")
def quick_compilation():
    """Compile without XLA's costly passes: for modules whose time goes into compiling many tiny programs once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # what was compiled so rounds differently; no other module may meet it
