"""Runs the teacher over the rows of a phase and writes what it says, shard by shard."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from configs.schema import config_hash
from data.batch import Batch
from data.pipeline import Pipeline, RowIterator
from model.heads.tokens import blockwise
from sharding.mesh import batch_sharding, make_mesh
from sharding.processes import place_rows, row_share
from train.checkpoint import Checkpoint, refuse_other_tokenizer
from train.distill_store.format import MAX_ENTRIES, Description, Kind, encode, shard_path, taught_slots, write_json
from train.distill_store.reader import finished_shards, sha256_of
from train.distill_store.settings import data_settings
from train.objectives.distill_entries import Entries, entropy, sample, top
from train.progress import PhaseProgress
from train.rows import rows_of
from train.sections import Sections
from train.teacher import Teacher


@dataclasses.dataclass(frozen=True)
class Written:
    """What one run of the writer added. seconds: with the compilation of the teacher; entries: over all targets."""

    rows: int = 0
    targets: int = 0
    entries: int = 0
    bytes: int = 0
    seconds: float = 0.0


def write(
    config: ConfigDict,
    name: str,
    teacher: Checkpoint,
    folder: Path,
    *,
    kind: Kind,
    num: int,
    rows: int,
    batches_per_shard: int,
    part: tuple[int, int] = (0, 1),
) -> Written:
    """Writes the shards that are not there yet, of at least `rows` rows of phase `name`: `num` entries a target.

    part: (i, n) writes every n-th of them from the i-th on, for several jobs with one folder. Entries depend on the
    config's seed and the global row alone, so a store that was interrupted ends with the same bytes.
    Raises ValueError for settings out of range, a teacher of other tokens, and for a folder with another store.
    """
    sections, (pipeline, vocabulary) = Sections.of(config), rows_of(config, name)
    _refuse(kind, num, rows, batches_per_shard, part, vocabulary.size)
    refuse_other_tokenizer(teacher, vocabulary.serialized)
    mesh = make_mesh(sections.mesh)
    data = data_settings(config, name)
    description = Description(
        kind,
        num,
        batches_per_shard * pipeline.batch_size,
        vocabulary.size,
        vocabulary.hash,
        sections.seed,
        {"phase": teacher.phase, "step": teacher.step, "config": config_hash(teacher.config)},
        data,
        config_hash(data),
    )
    _claim(folder, description)
    shards = _missing(folder, -(-rows // description.rows_per_shard), part)
    model = Teacher.of(teacher, vocabulary, mesh)
    return _Writer(description, pipeline, model, mesh, folder).write(shards) if shards else Written()


def _refuse(kind: Kind, num: int, rows: int, batches_per_shard: int, part: tuple[int, int], vocab_size: int) -> None:
    most = MAX_ENTRIES if kind == "sampled" else min(MAX_ENTRIES, vocab_size - 1)
    if not 1 <= num <= most:
        raise ValueError(f"--entries is {num}; {kind} takes 1 to {most} of {vocab_size} tokens")
    if rows < 1 or batches_per_shard < 1:
        raise ValueError(f"--rows is {rows} and --batches_per_shard {batches_per_shard}; they must be at least 1")
    if not 0 <= part[0] < part[1]:
        raise ValueError(f"--part is {part[0]}/{part[1]}; it must be i/n with i from 0 to n - 1")


def _claim(folder: Path, description: Description) -> None:
    """Makes the folder a store. Raises ValueError, naming what differs, where it is another one already."""
    if not (folder / "store.json").exists():
        if jax.process_index() == 0:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                description.write(folder)
            except OSError as error:
                raise ValueError(f"--out {folder} cannot be written: {error}; choose another") from error
        return
    there, here = dataclasses.asdict(Description.read(folder)), dataclasses.asdict(description)
    differing = [
        f"{field} {there[field]!r} there, {here[field]!r} here" for field in here if there[field] != here[field]
    ]
    if differing:
        raise ValueError(f"--out {folder} holds another store: {'; '.join(differing)}; choose another folder")


def _missing(folder: Path, num_shards: int, part: tuple[int, int]) -> list[int]:
    """The shards of our part that are not finished, as process 0 sees them: it alone writes."""
    missing = np.ones(num_shards, bool)
    if jax.process_index() == 0:
        missing[[shard for shard in finished_shards(folder) if shard < num_shards]] = False
    if jax.process_count() > 1:
        missing = multihost_utils.broadcast_one_to_all(missing)
    return [int(shard) for shard in np.flatnonzero(missing) if shard % part[1] == part[0]]


class _Writer:
    def __init__(self, description: Description, pipeline: Pipeline, teacher: Teacher, mesh: Mesh, folder: Path):
        self._description, self._pipeline, self._folder = description, pipeline, folder
        self._mesh, self._share = mesh, row_share(mesh, jax.process_index())
        # Process 0 writes, so it gets the rows of all, the little of them that a record needs.
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._draw = jax.jit(_draw(description, teacher), out_shardings=everywhere)
        self._constants = teacher.constants

    def write(self, shards: list[int]) -> Written:
        began, done = time.monotonic(), Written()
        progress = PhaseProgress("store", 0, len(shards))
        batches: RowIterator | None = None
        try:
            for number, shard in enumerate(shards, start=1):
                first = shard * self._description.rows_per_shard
                if batches is None or batches.next_row != first:
                    if batches is not None:
                        batches.close()
                    batches = self._pipeline.iterator(first, *self._share)
                about = self._write_shard(shard, self._records(batches, first + self._description.rows_per_shard))
                added = {name: getattr(done, name) + about[name] for name in ("targets", "entries", "bytes", "rows")}
                done = Written(**added, seconds=time.monotonic() - began)
                progress.advance(number)
                progress.report(number, {"tokens_per_second": done.targets / done.seconds})
        finally:
            progress.close()
            if batches is not None:
                batches.close()
        return done

    def _records(self, batches: RowIterator, end: int) -> Iterator[tuple[Batch, Entries]]:
        """Each row up to `end` with its entries; the teacher is at the next batch while one is written."""
        ahead: Any = None
        placement, (index, count) = batch_sharding(self._mesh), self._share
        while batches.next_row < end:
            first = batches.next_row
            batch = next(batches)
            ours = len(batch.tokens)
            row_B = np.arange(ours, dtype=np.uint32) + np.uint32(first + index * ours)
            placed = jax.tree.map(lambda x: place_rows(x, placement, count), (batch, row_B))
            with jax.set_mesh(self._mesh):
                ahead, drawn = self._draw(*self._constants, *placed), ahead
            yield from _rows(drawn)
        yield from _rows(ahead)

    def _write_shard(self, shard: int, records: Iterator[tuple[Batch, Entries]]) -> dict[str, Any]:
        """Writes aside and renames; then says that the shard is whole."""
        path, totals = shard_path(self._folder, shard), {"rows": 0, "targets": 0, "entries": 0}
        aside = path.with_suffix(".tmp")
        writer = ArrayRecordWriter(str(aside), "group_size:1") if jax.process_index() == 0 else None
        for row, entries in records:
            record = encode(self._description, row, entries)
            totals["rows"] += 1
            totals["targets"] += len(taught_slots(row))
            totals["entries"] += int.from_bytes(record[8:12], "little")
            if writer is not None:
                writer.write(record)
        if writer is None:
            return {**totals, "bytes": 0}
        writer.close()
        about = {**totals, "bytes": aside.stat().st_size, "sha256": sha256_of(aside)}
        os.replace(aside, path)
        write_json(path.with_suffix(".json"), {"first_row": shard * self._description.rows_per_shard, **about})
        return about


def _draw(description: Description, teacher: Teacher) -> Callable[..., tuple[Batch, Entries]]:
    """A batch, less its images and vectors, and what is kept of the teacher at each of its slots."""
    seed, num = description.seed, description.entries

    def sampled(logits_NV: jax.Array, uniform_N: jax.Array) -> Entries:
        return Entries(sample(logits_NV, uniform_N, num), None, None, entropy(logits_NV))

    def largest(logits_NV: jax.Array, _: jax.Array) -> Entries:
        return Entries(*top(logits_NV, num), None)

    choose = sampled if description.kind == "sampled" else largest

    def draw(params: Any, buffers: Any, batch: Batch, row_B: jax.Array) -> tuple[Batch, Entries]:
        model = teacher.model(params, buffers)
        hidden_BTD = model(batch).hidden_BTD
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(row_B)
        uniform_BT = jax.vmap(lambda key: jax.random.uniform(key, batch.tokens.shape[1:]))(keys)
        flat = (hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), uniform_BT.reshape(-1))
        unembed = model.unembedding()
        kept = blockwise(lambda hidden_ND, uniform_N: choose(unembed(hidden_ND), uniform_N), *flat)
        entries = jax.tree.map(lambda x: x.reshape(*batch.tokens.shape, *x.shape[1:]), kept)
        return dataclasses.replace(batch, media={}, values={}), entries

    return draw


def _rows(drawn: tuple[Batch, Entries] | None) -> Iterator[tuple[Batch, Entries]]:
    if drawn is None:
        return
    batch, entries = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), drawn)
    for b in range(len(batch.tokens)):
        yield jax.tree.map(lambda x, b=b: x[b], (batch, entries))
