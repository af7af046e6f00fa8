"""What a measurement ran on: processor, accelerator and driver, Python and packages."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import subprocess


def describe(packages: tuple[str, ...]) -> dict[str, object]:
    """Hardware and versions for a result file, read without starting any framework."""
    found = {name: version for name in packages if (version := _version(name)) is not None}
    return {"processor": _processor(), "accelerator": _accelerator(), "python": platform.python_version(), **found}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Model and cores; Linux keeps the model where `platform` does not look."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{next(iter(models), platform.processor() or platform.machine())}, {os.cpu_count()} cores"


def _accelerator() -> str | None:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")
    except (OSError, subprocess.SubprocessError):
        return None
    return lines[0].strip() or None
