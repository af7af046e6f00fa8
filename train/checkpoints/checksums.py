"""Checksums of a checkpoint's files: written before the folder gets its final name, compared before it is read.

`SHA256SUMS` is what `sha256sum` writes: `sha256sum --check SHA256SUMS` in a checkpoint does by hand what is done here.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

SUMS = "SHA256SUMS"
_WRITTEN_LATER = {"_CHECKPOINT_METADATA", "commit_success.txt"}  # by Orbax, as it names the folder; they say when


def files_below(folder: Path) -> list[Path]:
    """The files that checksums are of, in a fixed order."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if path.name not in _WRITTEN_LATER and path != folder / SUMS)


def sums_of(folder: Path, paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file, by its path below `folder`."""
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}


def read_sums(path: Path) -> dict[str, str]:
    """Raises ValueError for what `sha256sum` does not write."""
    sums = {}
    for line in path.read_text(errors="replace").splitlines():
        digest, separator, name = line.partition("  ")
        if len(digest) != 64 or not separator:
            raise ValueError(f"{path} is no list of checksums")
        sums[name] = digest
    return sums


def write_sums(path: Path, sums: Mapping[str, str]) -> None:
    """Returns when the list is on the disk."""
    with path.open("w") as file:
        file.writelines(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
        file.flush()
        os.fsync(file.fileno())


def problems(folder: Path, item: str = "", share: tuple[int, int] = (0, 1)) -> list[str]:
    """What is wrong with a checkpoint, a line for each file; empty where all is well or it came without checksums.

    item: the folder below it that is looked at; "" = all. share: (i, n) = the i-th of n parts of about equal size.
    """
    try:
        sums = read_sums(folder / SUMS)
    except FileNotFoundError:
        return []
    except (ValueError, OSError) as error:
        return [str(error)]
    if not sums:
        return [f"{folder / SUMS} is empty"]
    names = [name for name in sorted(sums) if not item or name.startswith(f"{item}/")]
    sizes = {name: path.stat().st_size if (path := folder / name).is_file() else 0 for name in names}
    index, count = share
    mine = sorted(names, key=lambda name: -sizes[name])[index::count]
    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda name: _problem(folder / name, sums[name]), mine)
        return [problem for problem in found if problem]


def _problem(path: Path, expected: str) -> str:
    try:
        return "" if _sha256(path) == expected else f"{path} differs from its checksum"
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be read: {error}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
