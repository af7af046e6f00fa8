"""Writes a LeRobotDataset v3.0: images as PNG inside parquet, videos as they are, one row group an episode, everything
or nothing."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.lerobot import layout
from data.lerobot.checks import check_episode, check_tasks, check_videos
from data.lerobot.clips import some_frames, video_info
from data.lerobot.stats import ImageStats, number_stats, sampled


class LeRobotWriter:
    """Collects episodes and, on `close`, puts a complete dataset at `root`.

    Until then everything lies in a hidden folder beside `root`, so a writer that dies leaves nothing there that reads
    as a dataset. `features` is as in info.json without the index columns; dtypes are "image" and "video" ([H,W,3]),
    "string" ([1]) and numbers ([n]). As a context manager it closes on success and removes what it wrote on an
    exception.
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
        self._images = {n: ImageStats.empty() for n, f in self.features.items() if layout.is_visual(f)}
        self._num_frames, self._num_files = 0, 0
        self._file: Any = None
        self._parquet: pq.ParquetWriter | None = None
        self._open = True
        self._partial = self.root.parent / f".{self.root.name}.partial-{uuid.uuid4().hex[:8]}"
        self._partial.mkdir(parents=True)

    def add_episode(
        self,
        frames: Mapping[str, Sequence | np.ndarray],
        task: str | Sequence[str],
        videos: Mapping[str, pathlib.Path] | None = None,
    ) -> int:
        """Append one episode and return its index.

        frames: one entry a feature, one value a frame: images uint8[H,W,3] or PNG bytes, numbers [n], strings.
        task: the instruction of the episode, or of each frame. videos: for each video feature a file that holds the
        frames of this episode and no others; it is copied as it is.
        Raises ValueError naming episode, feature and frame for what cannot be stored; nothing of that episode is kept.
        """
        if not self._open:
            raise ValueError(f"{self.root}: the writer is closed; open a new one with another root")
        index = len(self._episodes)
        filmed = {name: feature for name, feature in self.features.items() if feature["dtype"] == "video"}
        stored = {name: feature for name, feature in self.features.items() if name not in filmed}
        columns = check_episode(frames, stored, index)
        length = len(next(iter(columns.values())))
        tasks = check_tasks(task, length, index)
        check_videos(videos or {}, filmed, length, index)
        task_index = [self._tasks.setdefault(said, len(self._tasks)) for said in tasks]
        columns |= {
            "timestamp": (np.arange(length) / self.fps).astype(np.float32)[:, None],
            "frame_index": np.arange(length)[:, None],
            "episode_index": np.full((length, 1), index),
            "index": np.arange(self._num_frames, self._num_frames + length)[:, None],
            "task_index": np.array(task_index)[:, None],
        }
        stats = self._episode_stats(columns, videos or {}, length)
        try:
            places = self._write_frames(columns, index)
            for name, path in (videos or {}).items():
                places |= self._write_video(name, path, index, length)
        except BaseException:  # a half-written row group cannot be taken back
            self.abort()
            raise
        row = {"episode_index": index, "tasks": list(dict.fromkeys(tasks)), "length": length}
        self._episodes.append(row | places | self._stats_of_row(stats))
        self._num_frames += length
        return index

    def _stats_of_row(self, stats: Mapping[str, Mapping[str, list]]) -> dict[str, Any]:
        return {f"stats/{name}/{stat}": value for name, found in stats.items() for stat, value in found.items()}

    def _episode_stats(
        self, columns: Mapping[str, Any], videos: Mapping[str, pathlib.Path], length: int
    ) -> dict[str, dict[str, list]]:
        stats = {}
        for name, feature in self._all_features.items():
            if layout.is_visual(feature):
                if name in videos:
                    found = ImageStats.of_pixels(some_frames(videos[name], sampled(length)))
                    self._all_features[name].setdefault("info", video_info(videos[name]))
                else:
                    found = ImageStats.of(columns[name])
                self._images[name].add(found)
                stats[name] = found.to_lists()
            elif layout.is_number(feature):
                stats[name] = number_stats(columns[name])
        return stats

    def _write_frames(self, columns: Mapping[str, Any], index: int) -> dict[str, int]:
        """Appends the rows of episode `index` and returns what its metadata say of them."""
        if self._parquet is None:
            chunk, file = divmod(self._num_files, layout.CHUNKS_SIZE)
            self._open_file(layout.DATA_PATH.format(chunk_index=chunk, file_index=file))
        assert self._parquet is not None
        self._parquet.write_table(self._to_table(columns), row_group_size=1 << 30)
        chunk, file = divmod(self._num_files - 1, layout.CHUNKS_SIZE)
        if self._file.tell() >= self.data_file_mb * 2**20:
            self._close_file()
        rows = len(columns["index"])
        return {
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": self._num_frames,
            "dataset_to_index": self._num_frames + rows,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }

    def _write_video(self, name: str, path: pathlib.Path, index: int, length: int) -> dict[str, Any]:
        """Copies the video of episode `index`, a file of its own, and returns what its metadata say of it."""
        chunk, file = divmod(index, layout.CHUNKS_SIZE)
        self._copy(path, layout.VIDEO_PATH.format(video_key=name, chunk_index=chunk, file_index=file))
        place = {"chunk_index": chunk, "file_index": file, "from_timestamp": 0.0, "to_timestamp": length / self.fps}
        return {f"videos/{name}/{what}": value for what, value in place.items()}

    def _copy(self, source: pathlib.Path, name: str) -> None:
        (self._partial / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self._partial / name)

    def _to_table(self, columns: Mapping[str, Any]) -> pa.Table:
        arrays = [self._to_arrow(name, columns[name]) for name in self._schema.names]
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _to_arrow(self, name: str, values: Any) -> pa.Array:
        feature, arrow_type = self._all_features[name], self._schema.field(name).type
        if feature["dtype"] == "image":
            encoded = pa.array(values, pa.binary())
            return pa.StructArray.from_arrays([encoded, pa.nulls(len(values), pa.string())], fields=list(arrow_type))
        if feature["dtype"] == "string":
            return pa.array(values, pa.string())
        return layout.numbers_to_arrow(values, arrow_type)

    def _open_file(self, name: str) -> None:
        path = self._partial / name
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
        layout.write_json(self._partial / layout.STATS_PATH, self._dataset_stats())
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
            "video_path": layout.VIDEO_PATH if any(map(_is_video, self.features.values())) else None,
            "features": self._all_features,
        }
        layout.write_json(self._partial / layout.INFO_PATH, info)

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


def _is_video(feature: Mapping[str, Any]) -> bool:
    return feature["dtype"] == "video"
