"""Writes a LeRobotDataset v3.0: images as PNG inside parquet, one row group an episode, everything or nothing."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.lerobot import layout
from data.lerobot.checks import check_episode
from data.lerobot.stats import ImageStats, number_stats


class LeRobotWriter:
    """Collects episodes and, on `close`, puts a complete dataset at `root`.

    Until then everything lies in a hidden folder beside `root`, so a writer that dies leaves nothing there that reads
    as a dataset. `features` is as in info.json without the index columns; dtypes are "image" ([H,W,3]), "string" ([1])
    and numbers ([n]). As a context manager it closes on success and removes what it wrote on an exception.
    Raises ValueError when `root` exists and is not an empty folder, or when a feature cannot be written.
    """

    def __init__(
        self,
        root: str | pathlib.Path,
        fps: float,
        features: Mapping[str, Mapping[str, Any]],
        robot_type: str,
        data_file_mb: float = layout.DATA_FILE_MB,
    ):
        self.root = pathlib.Path(root)
        if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise ValueError(f"{self.root} exists and is not an empty folder; choose another root or remove it")
        if not fps > 0:
            raise ValueError(f"fps is {fps}; it must be above 0")
        self.fps, self.robot_type, self.data_file_mb = fps, robot_type, data_file_mb
        self.features = layout.check_features(features)
        self._all_features = {**self.features, **layout.INDEX_FEATURES}
        self._schema = layout.arrow_schema(self._all_features)
        self._tasks: dict[str, int] = {}
        self._episodes: list[dict[str, Any]] = []
        self._images = {n: ImageStats.empty() for n, f in self.features.items() if f["dtype"] == "image"}
        self._num_frames, self._num_files = 0, 0
        self._file: Any = None
        self._parquet: pq.ParquetWriter | None = None
        self._open = True
        self._partial = self.root.parent / f".{self.root.name}.partial-{uuid.uuid4().hex[:8]}"
        self._partial.mkdir(parents=True)

    def add_episode(self, frames: Mapping[str, Sequence | np.ndarray], task: str) -> int:
        """Append one episode and return its index.

        frames: one entry a feature, one value a frame: images uint8[H,W,3] or PNG bytes, numbers [n], strings.
        Raises ValueError naming episode, feature and frame for what cannot be stored; nothing of that episode is kept.
        """
        if not self._open:
            raise ValueError(f"{self.root}: the writer is closed; open a new one with another root")
        index = len(self._episodes)
        columns = check_episode(frames, task, self.features, index)
        length = len(next(iter(columns.values())))
        task_index = self._tasks.setdefault(task, len(self._tasks))
        columns |= {
            "timestamp": (np.arange(length) / self.fps).astype(np.float32)[:, None],
            "frame_index": np.arange(length)[:, None],
            "episode_index": np.full((length, 1), index),
            "index": np.arange(self._num_frames, self._num_frames + length)[:, None],
            "task_index": np.full((length, 1), task_index),
        }
        stats = self._episode_stats(columns)
        try:
            chunk, file = self._write_frames(columns)
        except BaseException:  # a half-written row group cannot be taken back
            self.abort()
            raise
        row = {
            "episode_index": index,
            "tasks": [task],
            "length": length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": self._num_frames,
            "dataset_to_index": self._num_frames + length,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        row |= {f"stats/{name}/{stat}": value for name, found in stats.items() for stat, value in found.items()}
        self._episodes.append(row)
        self._num_frames += length
        return index

    def _episode_stats(self, columns: Mapping[str, Any]) -> dict[str, dict[str, list]]:
        stats = {}
        for name, feature in self._all_features.items():
            if feature["dtype"] == "image":
                found = ImageStats.of(columns[name])
                self._images[name].add(found)
                stats[name] = found.to_lists()
            elif layout.is_number(feature):
                stats[name] = number_stats(columns[name])
        return stats

    def _write_frames(self, columns: Mapping[str, Any]) -> tuple[int, int]:
        if self._parquet is None:
            self._open_file()
        assert self._parquet is not None
        arrays = [self._to_arrow(name, columns[name]) for name in self._schema.names]
        self._parquet.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=1 << 30)
        place = divmod(self._num_files - 1, layout.CHUNKS_SIZE)
        if self._file.tell() >= self.data_file_mb * 2**20:
            self._close_file()
        return place

    def _to_arrow(self, name: str, values: Any) -> pa.Array:
        feature, arrow_type = self._all_features[name], self._schema.field(name).type
        if feature["dtype"] == "image":
            encoded = pa.array(values, pa.binary())
            return pa.StructArray.from_arrays([encoded, pa.nulls(len(values), pa.string())], fields=list(arrow_type))
        if feature["dtype"] == "string":
            return pa.array(values, pa.string())
        return layout.numbers_to_arrow(values, arrow_type)

    def _open_file(self) -> None:
        chunk, file = divmod(self._num_files, layout.CHUNKS_SIZE)
        path = self._partial / layout.DATA_PATH.format(chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        # Images are compressed already and never repeat: dictionaries and min/max only pay for the index columns.
        small = [name for name in self._schema.names if name in layout.INDEX_FEATURES]
        options: dict[str, Any] = {"use_dictionary": small, "write_statistics": small, "write_page_checksum": True}
        self._parquet = pq.ParquetWriter(self._file, self._schema, **options)
        self._num_files += 1

    def _close_file(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
            self._file.close()
            self._parquet = self._file = None

    def close(self) -> None:
        """Write the metadata and move the dataset to `root`. Raises ValueError when no episode was added."""
        if not self._open:
            return
        if not self._episodes:
            self.abort()
            raise ValueError(f"{self.root}: no episode was added; a dataset needs at least one")
        try:
            self._close_file()
            self._write_metadata()
            self._partial.rename(self.root)
        except BaseException:
            self.abort()
            raise
        self._open = False

    def _write_metadata(self) -> None:
        episodes = self._partial / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)
        episodes.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self._episodes), episodes)
        pq.write_table(layout.tasks_table(list(self._tasks)), self._partial / layout.TASKS_PATH)
        _write_json(self._partial / layout.STATS_PATH, self._dataset_stats())
        info = {
            "codebase_version": layout.VERSION,
            "robot_type": self.robot_type,
            "total_episodes": len(self._episodes),
            "total_frames": self._num_frames,
            "total_tasks": len(self._tasks),
            "chunks_size": layout.CHUNKS_SIZE,
            "data_files_size_in_mb": layout.DATA_FILE_MB,
            "video_files_size_in_mb": layout.VIDEO_FILE_MB,
            "fps": self.fps,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": layout.DATA_PATH,
            "video_path": None,
            "features": self._all_features,
        }
        _write_json(self._partial / layout.INFO_PATH, info)

    def _dataset_stats(self) -> dict[str, dict[str, list]]:
        """Exact over all frames: the numbers are read back a column at a time, since quantiles do not add up."""
        stats = {name: images.to_lists() for name, images in self._images.items()}
        files = sorted((self._partial / "data").glob("*/*.parquet"))
        for name, feature in self._all_features.items():
            if layout.is_number(feature):
                columns = [pq.read_table(file, columns=[name])[name] for file in files]
                parts = [layout.arrow_to_numbers(column, feature["shape"][0]) for column in columns]
                stats[name] = number_stats(np.concatenate(parts))
        return stats

    def abort(self) -> None:
        """Throw away everything written so far. Does nothing after `close`."""
        if self._open:
            self._open = False
            with contextlib.suppress(OSError, pa.ArrowException):  # the disk may be full
                self._close_file()
            shutil.rmtree(self._partial, ignore_errors=True)

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.close() if kind is None else self.abort()


def _write_json(path: pathlib.Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False), encoding="utf-8")
