"""Checkpoints: everything that a run needs to go on and everything that others need to use its model.

Layout of one checkpoint: `params`, `ema`, `buffers`, `training` (optimiser, guard, step) are arrays written by Orbax,
each process writing the shards it holds; `files` holds `meta.json`, `config.json`, `statistics.json`,
`transforms.json`, `tokenizer.model` and `example_batch.npz`; `SHA256SUMS` has the checksums of all of them. A
checkpoint is complete once its folder has its final name; an interrupted one is never read.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from train.checkpoints.contents import Assets, as_json
from train.checkpoints.files import FILES, FilesSave, arrays_save, seal
from train.checkpoints.finished import Checkpoint, read_item, refuse_other_config, refuse_other_tokenizer
from train.checkpoints.tiers import Copies, local_folder
from train.checkpoints.whole import newest_whole
from train.step import TrainState

__all__ = [
    "Assets",
    "Checkpoint",
    "CheckpointError",
    "Checkpointer",
    "refuse_other_config",
    "refuse_other_tokenizer",
]

Merge = Callable[[Any], Any]


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written, or none that can be read; the message says what is left."""


class Checkpointer:
    """Writes one phase's checkpoints in the background and restores the newest whole one.

    directory: where they are for good. local: a folder on a faster disk, "" = none: everything is written there first,
    and what is to be kept is copied to `directory` in the background.

    Broken checkpoints that are newer than the newest whole one are set aside when this begins, and named on stderr.
    `save` returns when the arrays are copied to the host; a failure of the background write is raised by the next call.
    Raises CheckpointError if the folder cannot be written, the disk is full, or all checkpoints are broken; older
    checkpoints stay as they are.
    """

    def __init__(self, directory: Path, assets: Assets, *, keep: int = 2, local: str = ""):
        self.directory, self._files = Path(directory).resolve(), assets.files()
        self.merge: Merge | None = None  # of what is trained, where that is not the parameters themselves
        self._phase, self._last_good, self._copies = assets.phase, None, None
        with self._explained("prepare"):
            self._written = local_folder(local, self.directory) if local else self.directory
            folders = (self._written, self.directory) if local else (self.directory,)
            self._newest, self._broken = newest_whole(folders)
        if self._newest is None and self._broken:
            raise CheckpointError(
                f"no checkpoint in {self.directory} is whole; they are kept aside: "
                f"{', '.join(str(path) for path in self._broken)}. Put a copy of one back, or begin anew in another "
                "--workdir."
            )
        with self._explained("prepare"):
            self._last_good = None if self._newest is None else int(self._newest.name)
            self._saving: int | None = None
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            )
            self._manager = ocp.CheckpointManager(self._written, options=options)
            if local and jax.process_index() == 0:
                self._copies = Copies(self._written, self.directory, keep)

    @property
    def stored(self) -> Checkpoint | None:
        """The newest whole checkpoint when this began."""
        return None if self._newest is None else Checkpoint.open(self._newest)

    def latest_step(self) -> int | None:
        """The newest checkpoint that is finished."""
        found = [step for step in (self._manager.latest_step(), self._last_good) if step is not None]
        return max(found, default=None)

    def save(
        self, state: TrainState, *, step: int, next_row: int, progress: Mapping[str, Any], lasting: bool = True
    ) -> None:
        """Begins to write `state`, reached after `step` steps; the data goes on at global row `next_row`.

        lasting: whether it is copied to `directory` where there is a local folder.
        """
        meta = {
            "step": step,
            "next_row": next_row,
            "phase": self._phase,
            "progress": dict(progress),
            "tokenizer_sha256": hashlib.sha256(self._files["tokenizer.model"]).hexdigest(),
            "versions": {"jax": jax.__version__, "orbax": ocp.__version__, "numpy": np.__version__},
        }
        items: dict[str, Any] = {name: arrays_save(tree) for name, tree in _items(state, self.merge).items()}
        items[FILES] = FilesSave({**self._files, "meta.json": as_json(meta)})
        with self._explained(f"write step {step}"):
            self._manager.wait_until_finished()
            self._last_good = self.latest_step()
            if step not in self._manager.all_steps():
                self._saving = step
                self._manager.save(step, args=ocp.args.Composite(**items), force=True)
            if self._copies is not None and lasting:
                self._copies.add(step)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest whole state and its meta data, with the shapes, dtypes and shardings of `like` (any topology).

        `like` may be abstract, as `jax.ShapeDtypeStruct`. Buffers that the checkpoint lacks are those of `like`.
        """
        self.wait()
        step = self.latest_step()
        assert step is not None, "nothing to restore"
        folders = (self._written / str(step), self.directory / str(step))
        folder = next(folder for folder in folders if folder.is_dir())
        found = {name: read_item(folder / name, tree) for name, tree in self._wanted(like)}
        training = found["training"]
        state = TrainState(
            step=training["step"],
            params=found["params"] if "params" in found else training["adapters"],
            buffers=found.get("buffers", like.buffers),
            opt_state=training["opt_state"],
            ema=found["ema"] if "ema" in found else training.get("average"),
            guard=training["guard"],
        )
        return state, Checkpoint.open(folder).meta

    def _wanted(self, like: TrainState) -> list[tuple[str, Any]]:
        """What a state is restored from: merged parameters cannot be taken apart again."""
        items = _items(like, self.merge)
        return [(name, tree) for name, tree in items.items() if self.merge is None or name not in ("params", "ema")]

    def wait(self) -> None:
        """Returns when everything is on disk."""
        with self._explained("finish writing"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            self._last_good = self.latest_step()
            if self._copies is not None:
                self._copies.wait()

    def close(self) -> None:
        self._manager.close()
        if self._copies is not None:
            self._copies.close()

    def _seal(self) -> None:
        """Called by process 0 when all of a checkpoint is written and its folder not yet named."""
        (folder,) = self._written.glob(f"{self._saving}.orbax-checkpoint-tmp*")
        seal(folder)

    @contextlib.contextmanager
    def _explained(self, action: str):
        try:
            yield
        except Exception as error:  # Orbax and TensorStore report a full disk through several types
            good = "there is none yet" if self._last_good is None else f"step {self._last_good} is intact"
            raise CheckpointError(
                f"cannot {action} in {self.directory}: {error}\nThe last good checkpoint: {good}. Free some space or "
                "correct the permissions and run the same command again, or choose another --workdir."
            ) from error


def _items(state: TrainState, merge: Merge | None) -> dict[str, Any]:
    """The array items; Orbax stores no empty tree."""
    training = {"step": state.step, "opt_state": state.opt_state, "guard": state.guard}
    params, ema = state.params, state.ema
    if merge is not None:
        training |= {"adapters": params} | ({} if ema is None else {"average": ema})
        params, ema = merge(params), None if ema is None else merge(ema)
    items = {"params": params, "ema": ema, "buffers": state.buffers, "training": training}
    return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}
