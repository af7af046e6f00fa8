"""How Orbax writes the items of a checkpoint: arrays together with the checksums of their files, small files as is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from train.checkpoints.checksums import SUMS, files_below, read_sums, sums_of, write_sums

FILES = "files"

_CHUNK_BYTES = 64 * 2**20  # the largest piece of an array in a file, so that little is read for another's sake


class ArraysHandler(ocp.StandardCheckpointHandler):
    """Each process takes the checksums of the files it wrote, in the background and once they are on disk.

    So no process has to read what others wrote.
    """

    async def async_save(self, directory: Any, item: Any = None, **given: Any) -> list[ocp.future.Future]:
        return [_Summed(directory, await super().async_save(directory, item, **given) or [])]


class _Summed(ocp.future.Future):
    def __init__(self, directory: Any, written: list[ocp.future.Future]):
        self._directory, self._written = directory, written

    def result(self, timeout: float | None = None) -> None:
        for future in self._written:
            future.result(timeout=timeout)
        item, index = Path(self._directory), jax.process_index()
        write_sums(item / f"{SUMS}.{index}", sums_of(item, files_below(item / f"ocdbt.process_{index}")))

    def cancel(self) -> None:
        for future in self._written:
            future.cancel()


@ocp.args.register_with_handler(ArraysHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class ArraysSave(ocp.args.StandardSave):
    """A tree of jax.Array; see `arrays_save`."""


def arrays_save(tree: Any) -> ArraysSave:
    return ArraysSave(tree, jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES), tree))


class FilesHandler(ocp.CheckpointHandler):
    """Writes small files as they are, so that other programs can read them. One process writes."""

    def save(self, directory: epath.Path, args: FilesSave) -> None:
        if jax.process_index() == 0:
            for name, content in args.files.items():
                (directory / name).write_bytes(content)

    def restore(self, directory: epath.Path, args: Any = None) -> dict[str, bytes]:
        del args
        return {path.name: path.read_bytes() for path in directory.iterdir()}


@ocp.args.register_with_handler(FilesHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class FilesSave(ocp.args.CheckpointArgs):
    files: dict[str, bytes]


def seal(folder: Path) -> None:
    """Process 0, once all have written: one list of the checksums of the processes and of the files that are left."""
    sums: dict[str, str] = {}
    for part in sorted(folder.glob(f"*/{SUMS}.*")):
        sums |= {f"{part.parent.name}/{name}": digest for name, digest in read_sums(part).items()}
        part.unlink()
    rest = [path for path in files_below(folder) if path.relative_to(folder).as_posix() not in sums]
    write_sums(folder / SUMS, sums | sums_of(folder, rest))
