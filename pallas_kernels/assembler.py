"""Which assembler makes machine code of a Hopper kernel: ptxas, or nvJitLink, which spoils it.

Since 0.12 JAX hands Mosaic's PTX to nvJitLink wherever that library loads. It assembles every kernel as one that others
may be linked to, and so ignores `setmaxnreg` (ptxas message C7504): the warps that multiply do not get the registers
that the warps that copy give up, and large tiles spill. No flag or variable chooses otherwise; without the library
XLA runs ptxas, as JAX 0.11 always did.

`use_ptxas` keeps the library from one process: a shared object without contents takes its name, which the loader then
finds already taken. cuSOLVER, which lists nvJitLink among its needs, calls nothing of it. The same without Python:

    mkdir decoy && ln -s /lib/x86_64-linux-gnu/libm.so.6 decoy/libnvJitLink.so.13
    LD_LIBRARY_PATH=$PWD/decoy LD_PRELOAD=libnvJitLink.so.13 python -m train ...
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pathlib
import platform
import shutil
import struct
import tempfile

import jax

__all__ = ["problem", "use_ptxas"]

_LIBRARY = "libnvJitLink.so.13"  # CUDA 12's cuSPARSE calls its nvJitLink, so there the name must not be taken
_MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine of the ELF header


def problem() -> str | None:
    """Why kernels of this process would lose registers, and the remedy; None if they would not.

    Cheap: asks the loader, compiles nothing. Ask once the GPU is in use.
    """
    if jax.__version_info__ < (0, 12) or platform.system() != "Linux":
        return None
    if not (_loaded() if _taken() else _installed("lib", _LIBRARY)):
        return None
    return (
        f"JAX {jax.__version__} assembles GPU kernels with nvJitLink, which ignores setmaxnreg, so that they "
        "spill registers. Call pallas_kernels.assembler.use_ptxas() before JAX first uses the GPU, or install "
        "jax[cuda13]<0.12"
    )


def use_ptxas() -> bool:
    """Have XLA run ptxas in this process; call before JAX first uses the GPU. Whether ptxas is what XLA will run.

    Does nothing where JAX is older than 0.12 or there is no ptxas, and cannot help where nvJitLink is loaded already.
    """
    if problem() is None:
        return True
    machine = _MACHINES.get(platform.machine())
    if _taken() or machine is None or not (_installed("bin", "ptxas") or shutil.which("ptxas")):
        return False
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, _LIBRARY)
        path.write_bytes(_empty_library(_LIBRARY, machine))
        ctypes.CDLL(str(path))  # stays loaded when the file is gone
    return problem() is None


def _taken() -> bool:
    """Whether something of the library's name is loaded."""
    try:
        ctypes.CDLL(_LIBRARY, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return False
    return True


def _loaded() -> bool:
    """Whether what is loaded under the name is the library, rather than nothing in its place."""
    return hasattr(ctypes.CDLL(_LIBRARY, mode=os.RTLD_NOLOAD | os.RTLD_LAZY), "nvJitLinkVersion")


def _installed(*path: str) -> bool:
    """Whether NVIDIA's wheels, where JAX looks first, hold such a file."""
    if importlib.util.find_spec("nvidia") is None:
        return False
    found = importlib.util.find_spec("nvidia.cu13")
    return any(pathlib.Path(folder, *path).exists() for folder in (found and found.submodule_search_locations) or ())


def _empty_library(name: str, machine: int) -> bytes:
    """The smallest shared object that the loader takes for `name`: a header, two segments and a table of strings."""
    header, segment, page = 64, 56, 0x10000
    names = b"\0" + name.encode() + b"\0"
    names += b"\0" * (-len(names) % 8)
    at_names = header + 2 * segment
    at_symbols = at_names + len(names)
    at_hash = at_symbols + 24
    at_table = at_hash + 16
    # DT_SONAME, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_NULL
    entries = ((14, 1), (4, at_hash), (5, at_names), (6, at_symbols), (10, len(names)), (11, 24), (0, 0))
    table = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    size = at_table + len(table)
    identity = b"\x7fELF" + bytes([2, 1, 1]).ljust(12, b"\0")  # 64 bits, little endian
    top = identity + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, header, 0, 0, header, segment, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 6, 0, 0, 0, size, size, page)  # all of it, readable and writable
    dynamic = struct.pack("<IIQQQQQQ", 2, 6, at_table, at_table, at_table, len(table), len(table), 8)
    no_symbols = bytes(24) + struct.pack("<4I", 1, 1, 0, 0)  # one nameless symbol, and a hash table that finds nothing
    return top + load + dynamic + names + no_symbols + table
