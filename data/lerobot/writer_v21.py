"""Writes a LeRobotDataset v2.1, which openpi and GR00T read: one parquet file and one video an episode, JSON lines."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from data.lerobot import layout
from data.lerobot.writer import LeRobotWriter

_STATS = ("min", "max", "mean", "std", "count")  # v2.1 knows no quantiles


class LeRobotWriterV21(LeRobotWriter):
    """`LeRobotWriter` in the older layout; pictures are PNG inside parquet, or videos, as the features say."""

    def _write_frames(self, columns: Mapping[str, Any], index: int) -> dict[str, Any]:
        self._open_file(layout.DATA_PATH_2.format(episode_chunk=index // layout.CHUNKS_SIZE, episode_index=index))
        assert self._parquet is not None
        self._parquet.write_table(self._to_table(columns), row_group_size=1 << 30)
        self._close_file()
        return {}

    def _write_video(self, name: str, path: pathlib.Path, index: int, length: int) -> dict[str, Any]:
        chunk = index // layout.CHUNKS_SIZE
        self._copy(path, layout.VIDEO_PATH_2.format(episode_chunk=chunk, video_key=name, episode_index=index))
        return {}

    def _stats_of_row(self, stats: Mapping[str, Mapping[str, list]]) -> dict[str, Any]:
        return {"stats": {name: {stat: found[stat] for stat in _STATS} for name, found in stats.items()}}

    def _write_metadata(self) -> None:
        meta = self._partial / "meta"
        meta.mkdir(parents=True)
        stats = [{"episode_index": row["episode_index"], "stats": row["stats"]} for row in self._episodes]
        episodes = [{key: row[key] for key in ("episode_index", "tasks", "length")} for row in self._episodes]
        tasks = [{"task_index": index, "task": task} for task, index in self._tasks.items()]
        for name, rows in (("episodes", episodes), ("tasks", tasks), ("episodes_stats", stats)):
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (meta / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        num_videos = sum(feature["dtype"] == "video" for feature in self.features.values())
        info = {
            "codebase_version": layout.VERSION_2,
            "robot_type": self.robot_type,
            "total_episodes": len(self._episodes),
            "total_frames": self._num_frames,
            "total_tasks": len(self._tasks),
            "total_videos": num_videos * len(self._episodes),
            "total_chunks": (len(self._episodes) - 1) // layout.CHUNKS_SIZE + 1,
            "chunks_size": layout.CHUNKS_SIZE,
            "fps": self.fps,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": layout.DATA_PATH_2,
            "video_path": layout.VIDEO_PATH_2 if num_videos else None,
            "features": self._all_features,
        }
        layout.write_json(self._partial / layout.INFO_PATH, info)
