"""Checkpoints on a fast local disk, and their copies on the disk that outlives the machine."""

from __future__ import annotations

import os
import queue
import shutil
import sys
import threading
import uuid
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from data.whole import write_whole
from train.checkpoints.checksums import problems
from train.checkpoints.whole import steps_in

_POLL_SECONDS = 0.1


def local_folder(local: str, directory: Path) -> Path:
    """The folder below `local` that belongs to the checkpoints of `directory`, made if need be.

    A name drawn at the first start and kept in `directory` ties the two, so that a run that begins anew in a folder
    of the same name never goes on from the old one's. All processes must see the same folder.

    Raises:
        ValueError: some process does not.
    """
    link, first = directory / "local.txt", jax.process_index() == 0
    if first and not link.is_file():
        write_whole(link, uuid.uuid4().hex)
    _together("local name")
    folder = Path(local).resolve() / link.read_text()
    if first:
        folder.mkdir(parents=True, exist_ok=True)
    _together("local folder")
    if not folder.is_dir():
        raise ValueError(
            f"train.local_checkpoints is {local!r}, where rank {jax.process_index()} does not see the folder that rank "
            '0 made; give a disk that all processes share, or "" for none'
        )
    return folder


class Copies:
    """Copies finished checkpoints to another folder, in the background, and keeps the newest `keep` there.

    A copy is compared with its checksums before it gets its name. One that fails is noted on stderr, tried again with
    the next checkpoint, and raised by `wait` if it is the last one.
    """

    def __init__(self, source: Path, target: Path, keep: int):
        self._source, self._target, self._keep = source, target, keep
        self._steps: queue.Queue[int | None] = queue.Queue()
        self._error: Exception | None = None
        self._stop = threading.Event()
        for torn in target.glob("*.copying"):
            shutil.rmtree(torn)
        self._thread = threading.Thread(target=self._run, name="checkpoint copies", daemon=True)
        self._thread.start()

    def add(self, step: int) -> None:
        """The checkpoint of `step` is being written in the source folder; copies it once it is finished."""
        self._steps.put(step)

    def wait(self) -> None:
        """Returns when all that was added is copied. Raises what stopped the last of them."""
        self._steps.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        self._stop.set()
        self._steps.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (step := self._steps.get()) is not None:
            try:
                if not (self._target / str(step)).is_dir() and self._finished(step):
                    self._copy(step)
                self._error = None
            except Exception as error:  # of whatever kind, the thread lives on for the next copy
                self._error = error
                print(f"checkpoint {step} could not be copied to {self._target}: {error}", file=sys.stderr, flush=True)
            finally:
                self._steps.task_done()
        self._steps.task_done()

    def _finished(self, step: int) -> bool:
        while not (self._source / str(step)).is_dir():
            if self._stop.wait(_POLL_SECONDS):
                return False
        return True

    def _copy(self, step: int) -> None:
        """From links, which stay when the source folder drops its older checkpoints meanwhile."""
        linked = self._source / f"{step}.copying"
        shutil.rmtree(linked, ignore_errors=True)
        shutil.copytree(self._source / str(step), linked, copy_function=os.link)
        aside = self._target / f"{step}.copying"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(linked, aside)
            found = problems(aside)
            if found:
                raise OSError(f"the copy is not what was written: {found[0]}")
            _flush(aside)
            aside.rename(self._target / str(step))
        finally:
            shutil.rmtree(linked, ignore_errors=True)
            shutil.rmtree(aside, ignore_errors=True)
        for old in steps_in(self._target)[: -self._keep]:
            shutil.rmtree(self._target / str(old))


def _flush(folder: Path) -> None:
    """Returns when what is below `folder` is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)


def _together(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"checkpoint {name}")
