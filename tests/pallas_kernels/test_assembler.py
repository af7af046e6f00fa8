"""Keeping nvJitLink from a process. What is loaded stays loaded, so each test that loads has a process of its own."""

import subprocess
import sys

import jax
import pytest

from pallas_kernels import assembler

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nvJitLink is loaded only on Linux")

SETUP = """
import ctypes, sys
import jax
from pallas_kernels import assembler
jax.__version_info__ = (0, 12, 0)
present = lambda *path: path in {files}
assembler._installed = present
"""


def outcome(code: str, files=(("lib", "libnvJitLink.so.13"), ("bin", "ptxas"))) -> str:
    """What the code prints in a process where NVIDIA's wheels hold these files."""
    command = [sys.executable, "-c", SETUP.format(files=set(files) or "()") + code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_where_the_name_is_taken_the_loader_finds_nothing_of_the_library():
    code = """
assert "nvJitLink, which ignores setmaxnreg" in assembler.problem()
assert assembler.use_ptxas()
assert assembler.problem() is None
library = ctypes.CDLL("libnvJitLink.so.13")
print(hasattr(library, "nvJitLinkVersion"), assembler.use_ptxas())
"""
    assert outcome(code) == "False True"


def test_a_library_that_is_loaded_already_stays_a_problem():
    code = """
assembler._taken = assembler._loaded = lambda: True
print(assembler.use_ptxas(), assembler.problem() is None)
"""
    assert outcome(code) == "False False"


def test_without_ptxas_nothing_is_hidden():
    code = """
assembler.shutil.which = lambda name: None
print(assembler.use_ptxas(), assembler._taken())
"""
    assert outcome(code, files=[("lib", "libnvJitLink.so.13")]) == "False False"


def test_without_the_library_there_is_no_problem():
    assert outcome("print(assembler.problem(), assembler.use_ptxas(), assembler._taken())", ()) == "None True False"


def test_older_versions_of_jax_run_ptxas_anyway(monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 11, 2))
    monkeypatch.setattr(assembler, "_installed", lambda *path: True)
    assert assembler.problem() is None


def test_the_problem_names_the_remedy(monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    monkeypatch.setattr(assembler, "_taken", lambda: True)
    monkeypatch.setattr(assembler, "_loaded", lambda: True)
    assert "Call pallas_kernels.assembler.use_ptxas() before JAX first uses the GPU" in assembler.problem()
