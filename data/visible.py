"""The files that a source reads, without reading them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.records import TextFiles


def files_in_words(source: Any) -> str:
    """How many files and bytes a section of `config.sources` names here, and a hash of their names and sizes.

    Equal on two hosts where both see the same files. Raises ValueError where there are none, OSError where they cannot
    be reached.
    """
    if hasattr(source, "paths"):
        found = _matches(source.paths)
    elif hasattr(source, "root"):
        found = _below(Path(source.root))
    else:
        return "made up"  # problems that come from the seed alone
    digest = hashlib.sha256(repr(sorted(found)).encode()).hexdigest()[:8]
    return f"{len(found)} files, {sum(size for _, size in found):,} bytes ({digest})"


def _matches(paths: Sequence[str]) -> list[tuple[str, int]]:
    files = TextFiles(tuple(paths), format="txt").files()  # only lists them, whatever their format
    return [(Path(path).name, system.size(path) or 0) for system, path in files]


def _below(root: Path) -> list[tuple[str, int]]:
    """Hidden files are left out: they come and go."""
    files = [root] if root.is_file() else [path for path in root.rglob("*") if path.is_file()]
    found = [(str(path.relative_to(root)), path.stat().st_size) for path in files if not path.name.startswith(".")]
    if not found:
        raise ValueError(f"{root} holds no file; record the dataset first, or correct the path")
    return found
