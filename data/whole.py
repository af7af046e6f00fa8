"""Folders and files that appear at once and whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Writes or replaces a file, text in UTF-8; its folder is made where there is none."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content if isinstance(content, bytes) else content.encode())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """A folder beside `out` to write in; it takes that name at the end, and is removed after an error.

    Raises:
        ValueError: `out` exists.
    """
    with _aside(out, "folder") as aside:
        aside.mkdir()
        yield aside


@contextlib.contextmanager
def new_file(out: str | Path) -> Iterator[Path]:
    """A file beside `out` to write; it takes that name at the end, and is removed after an error.

    Raises:
        ValueError: `out` exists.
    """
    with _aside(out, "name") as aside:
        yield aside


@contextlib.contextmanager
def _aside(out: str | Path, what: str) -> Iterator[Path]:
    out = Path(out).absolute()
    if out.exists():
        raise ValueError(f"--out {out} exists; remove it or choose another {what}")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        yield aside
        aside.rename(out)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        aside.unlink(missing_ok=True)
