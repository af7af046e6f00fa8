"""Checkpoints: everything that a run needs to go on and everything that others need to use its model.

Layout of one checkpoint: `params`, `ema`, `buffers`, `training` (optimiser, guard, step) are arrays written by Orbax;
`files` holds `meta.json`, `config.json`, `statistics.json`, `transforms.json`, `tokenizer.model` and
`example_batch.npz`. A checkpoint is complete once its folder has its final name; an interrupted one is never read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from data.batch import Batch
from train.optimizer import name_of
from train.step import TrainState

Merge = Callable[[Any], Any]


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written; the message names the last good one."""


@dataclasses.dataclass(frozen=True)
class Assets:
    """What travels unchanged in every checkpoint of a phase."""

    phase: str
    config: dict[str, Any]
    vocabulary: bytes  # the SentencePiece model
    statistics: Any  # normalisation, JSON-able
    transforms: Any  # JSON-able description from which they are rebuilt
    example_batch: Batch

    def files(self) -> dict[str, bytes]:
        return {
            "config.json": _json(self.config),
            "statistics.json": _json(self.statistics),
            "transforms.json": _json(self.transforms),
            "tokenizer.model": self.vocabulary,
            "example_batch.npz": _batch_to_npz(self.example_batch),
        }


class _FilesHandler(ocp.CheckpointHandler):
    """Writes small files as they are, so that other programs can read them. One process writes."""

    def save(self, directory: epath.Path, args: FilesSave) -> None:
        if jax.process_index() == 0:
            for name, content in args.files.items():
                (directory / name).write_bytes(content)

    def restore(self, directory: epath.Path, args: Any = None) -> dict[str, bytes]:
        del args
        return {path.name: path.read_bytes() for path in directory.iterdir()}


@ocp.args.register_with_handler(_FilesHandler, for_save=True)
@dataclasses.dataclass
class FilesSave(ocp.args.CheckpointArgs):
    files: dict[str, bytes]


@ocp.args.register_with_handler(_FilesHandler, for_restore=True)
@dataclasses.dataclass
class FilesRestore(ocp.args.CheckpointArgs):
    pass


class Checkpointer:
    """Writes one phase's checkpoints in the background and restores the latest one.

    `save` returns when the arrays are copied to the host; a failure of the background write is raised by the next call.
    Raises CheckpointError if the folder cannot be written or the disk is full; older checkpoints stay as they are.
    """

    def __init__(self, directory: Path, assets: Assets, *, keep: int = 2):
        self.directory, self._files = Path(directory).resolve(), assets.files()
        self.merge: Merge | None = None  # of what is trained, where that is not the parameters themselves
        self._phase, self._last_good = assets.phase, None
        with self._explained("prepare"):
            options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
            self._manager = ocp.CheckpointManager(self.directory, options=options)
            self._last_good = self._manager.latest_step()

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, *, step: int, next_row: int, progress: Mapping[str, Any]) -> None:
        """Begins to write `state`, reached after `step` steps; the data goes on at global row `next_row`."""
        meta = {
            "step": step,
            "next_row": next_row,
            "phase": self._phase,
            "progress": dict(progress),
            "tokenizer_sha256": hashlib.sha256(self._files["tokenizer.model"]).hexdigest(),
            "versions": {"jax": jax.__version__, "orbax": ocp.__version__, "numpy": np.__version__},
        }
        items = {name: ocp.args.StandardSave(tree) for name, tree in _items(state, self.merge).items()}
        files = FilesSave({**self._files, "meta.json": _json(meta)})
        with self._explained(f"write step {step}"):
            self._manager.wait_until_finished()
            self._last_good = self._manager.latest_step()
            if step not in self._manager.all_steps():
                self._manager.save(step, args=ocp.args.Composite(**items, files=files), force=True)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest state and its meta data, with the shapes, dtypes and shardings of `like` (any topology)."""
        step = self._manager.latest_step()
        assert step is not None, "nothing to restore"
        wanted = {name: ocp.args.StandardRestore(jax.tree.map(_abstract, tree)) for name, tree in self._wanted(like)}
        found = self._manager.restore(step, args=ocp.args.Composite(**wanted))
        training = found["training"]
        state = TrainState(
            step=training["step"],
            params=found["params"] if "params" in wanted else training["adapters"],
            buffers=found["buffers"] if "buffers" in wanted else like.buffers,
            opt_state=training["opt_state"],
            ema=found["ema"] if "ema" in wanted else training.get("average"),
            guard=training["guard"],
        )
        return state, Checkpoint.open(self.directory / str(step)).meta

    def _wanted(self, like: TrainState) -> list[tuple[str, Any]]:
        """What a state is restored from: merged parameters cannot be taken apart again."""
        items = _items(like, self.merge)
        return [(name, tree) for name, tree in items.items() if self.merge is None or name not in ("params", "ema")]

    def wait(self) -> None:
        """Returns when everything is on disk."""
        with self._explained("finish writing"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            self._last_good = self._manager.latest_step()

    def close(self) -> None:
        self._manager.close()

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


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint, readable without the config that made it. Arrays are read when first asked for."""

    path: Path
    meta: dict[str, Any]
    config: dict[str, Any]
    statistics: Any
    transforms: Any
    vocabulary_bytes: bytes

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Opens `<workdir>/<phase>/checkpoints/<step>`, or the latest step of a phase's folder or its `checkpoints`.

        Raises ValueError if there is no finished checkpoint.
        """
        folder = _find(Path(path).resolve())
        read = lambda name: json.loads((folder / "files" / name).read_text())  # noqa: E731
        return cls(
            path=folder,
            meta=read("meta.json"),
            config=read("config.json"),
            statistics=read("statistics.json"),
            transforms=read("transforms.json"),
            vocabulary_bytes=(folder / "files" / "tokenizer.model").read_bytes(),
        )

    @property
    def step(self) -> int:
        return self.meta["step"]

    @property
    def phase(self) -> str:
        return self.meta["phase"]

    @functools.cached_property
    def params(self) -> Any:
        """Nested dictionary of NumPy arrays."""
        return self._read("params")

    @functools.cached_property
    def ema(self) -> Any:
        """Averaged parameters, or None if the phase keeps none."""
        return self._read("ema")

    @functools.cached_property
    def buffers(self) -> Any:
        return self._read("buffers") or {}

    @property
    def weights(self) -> Any:
        """The parameters to use: the averaged ones where there are any."""
        return self.params if self.ema is None else self.ema

    @functools.cached_property
    def example_batch(self) -> Batch:
        return _batch_from_npz((self.path / "files" / "example_batch.npz").read_bytes())

    def read_like(self, item: str, like: Any) -> Any:
        """`params`, `ema` or `buffers` as a tree of jax.Array with the shapes, dtypes and shardings of `like`."""
        with ocp.StandardCheckpointer() as reader:
            return reader.restore(self.path / item, jax.tree.map(_abstract, like))

    def _read(self, item: str) -> Any:
        if not (self.path / item).is_dir():
            return None
        reader = ocp.PyTreeCheckpointHandler()
        tree = reader.metadata(epath.Path(self.path / item)).tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(epath.Path(self.path / item), args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def refuse_other_config(stored: Checkpoint, config: dict[str, Any], may_differ: Iterable[str]) -> None:
    """Raises ValueError naming every differing field, unless it lies below one of the dotted paths in `may_differ`."""
    allowed = tuple(may_differ)
    old, new = _flatten(stored.config), _flatten(json.loads(_json(config)))
    differing = [
        f"{field}: {old.get(field, 'absent')!r} in the checkpoint, {new.get(field, 'absent')!r} now"
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field) and not any(_is_below(field, path) for path in allowed)
    ]
    if differing:
        raise ValueError(
            f"{stored.path} was made by another config; these fields differ:\n  " + "\n  ".join(differing) + "\n"
            "Restore them, or start again in another --workdir."
        )


def refuse_other_tokenizer(stored: Checkpoint, vocabulary: bytes) -> None:
    """Raises ValueError if the checkpoint's token ids mean something else."""
    old, new = stored.meta["tokenizer_sha256"], hashlib.sha256(vocabulary).hexdigest()
    if old != new:
        raise ValueError(
            f"{stored.path} was trained with tokenizer {old[:12]} but the config's tokenizer is {new[:12]} (SHA-256); "
            "set config.vocabulary to the tokenizer of the checkpoint (its files/tokenizer.model), or train anew."
        )


def _items(state: TrainState, merge: Merge | None) -> dict[str, Any]:
    """The array items; Orbax stores no empty tree."""
    training = {"step": state.step, "opt_state": state.opt_state, "guard": state.guard}
    params, ema = state.params, state.ema
    if merge is not None:
        training |= {"adapters": params} | ({} if ema is None else {"average": ema})
        params, ema = merge(params), None if ema is None else merge(ema)
    items = {"params": params, "ema": ema, "buffers": state.buffers, "training": training}
    return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))


def _find(path: Path) -> Path:
    for root in (path, path / "checkpoints"):
        if (root / "files" / "meta.json").is_file():
            return root
        steps = [int(p.name) for p in root.iterdir() if p.name.isdigit()] if root.is_dir() else []
        if steps:
            return root / str(max(steps))
    raise ValueError(
        f"{path} holds no finished checkpoint; give a folder <workdir>/<phase>, its `checkpoints` or one step in it"
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _flatten(tree: Any, where: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {where: tree}
    below = ((f"{where}.{key}" if where else key, value) for key, value in tree.items())
    return {name: leaf for path, value in below for name, leaf in _flatten(value, path).items()}


def _is_below(field: str, path: str) -> bool:
    return field == path or field.startswith(path + ".")


def _batch_to_npz(batch: Batch) -> bytes:
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    arrays: dict[str, Any] = {name_of(path): np.asarray(leaf) for path, leaf in leaves}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _batch_from_npz(content: bytes) -> Batch:
    fields: dict[str, Any] = {"media": {}, "values": {}}
    with np.load(io.BytesIO(content)) as arrays:
        for name in arrays.files:
            group, _, key = name.partition("/")
            if key:
                fields[group][key] = arrays[name]
            else:
                fields[name] = arrays[name]
    return Batch(**fields)
