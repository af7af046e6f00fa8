"""Reads a dataset's metadata, v3.0 or v2, into one table of where every episode's frames lie."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.lerobot import layout
from data.robot_dataset import Report, refuse


@dataclasses.dataclass(frozen=True)
class Video:
    path: pathlib.Path
    start: float  # seconds into the file at which the episode's first frame lies


@dataclasses.dataclass(frozen=True)
class Episode:
    number: int  # episode_index as stored; may have gaps
    length: int  # frames
    tasks: tuple[str, ...]
    path: pathlib.Path
    videos: Mapping[str, Video]


def read_info(root: pathlib.Path) -> dict[str, Any]:
    """info.json of a dataset that can be read. Raises ValueError for a missing file, another version, no fps."""
    path = root / layout.INFO_PATH
    if not path.is_file():
        raise ValueError(f"{path} is missing: {root} is no complete LeRobot dataset; check the path or write it again")
    info = _json(path, path.read_text(encoding="utf-8"))
    version = info.get("codebase_version")
    if version not in (layout.VERSION, "v2.1", "v2.0"):  # v2.0 differs from v2.1 in its statistics alone
        raise ValueError(
            f"{path}: codebase_version is {version!r}; v3.0, v2.1 and v2.0 can be read, convert others with LeRobot"
        )
    missing = {"fps", "features", "data_path", "total_episodes", "total_frames"} - set(info)
    if missing or not info["fps"] > 0:
        raise ValueError(f"{path}: {sorted(missing) or 'fps'} missing or not positive; restore the original file")
    return info


def read_episodes(root: pathlib.Path, info: Mapping[str, Any], report: Report = refuse) -> list[Episode]:
    """Every episode in stored order; those without frames are reported and left out.

    Raises ValueError naming the metadata file and what is wrong with it.
    """
    episodes = _episodes_v30(root, info) if info["codebase_version"] == layout.VERSION else _episodes_v2(root, info)
    frames = sum(episode.length for episode in episodes)
    for episode in episodes:
        if episode.length < 1:
            report(f"{root}: episode {episode.number} has length {episode.length}; remove it from the metadata")
    if (len(episodes), frames) != (info["total_episodes"], info["total_frames"]):
        report(
            f"{root}: the episode list has {len(episodes)} episodes and {frames} frames, info.json says "
            f"{info['total_episodes']} and {info['total_frames']}; the copy is incomplete or info.json is stale"
        )
    return [episode for episode in episodes if episode.length > 0]


def read_tasks(root: pathlib.Path, info: Mapping[str, Any]) -> dict[int, str]:
    """Instructions by task_index."""
    if info["codebase_version"] != layout.VERSION:
        return {
            row["task_index"]: row["task"] for row in _json_lines(root / "meta/tasks.jsonl", ("task_index", "task"))
        }
    table = read_table(root / layout.TASKS_PATH)
    texts = [name for name in table.column_names if name != "task_index"]  # "task", or an unnamed pandas index
    if "task_index" not in table.column_names or len(texts) != 1:
        raise ValueError(f"{root / layout.TASKS_PATH}: columns are {table.column_names}; needs task_index and the text")
    return dict(zip(table["task_index"].to_pylist(), table[texts[0]].to_pylist(), strict=True))


def read_table(path: pathlib.Path, columns: list[str] | None = None) -> pa.Table:
    """A whole parquet file. Raises ValueError naming it when it is missing, truncated or lacks a column."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            absent = sorted(set(columns or ()) - set(file.schema_arrow.names))
            if absent:
                raise ValueError(f"{path}: columns {absent} are missing; it has {file.schema_arrow.names}")
            return file.read(columns=columns)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; copy the dataset again") from None
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as parquet ({_first_line(error)}); copy the file again") from None


def _episodes_v30(root: pathlib.Path, info: Mapping[str, Any]) -> list[Episode]:
    paths = sorted((root / "meta/episodes").glob("*/*.parquet"))
    if not paths:
        raise ValueError(f"{root / 'meta/episodes'} holds no parquet file; copy the dataset again")
    cameras = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    columns = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index", "dataset_from_index"]
    columns += [f"videos/{c}/{what}" for c in cameras for what in ("chunk_index", "file_index", "from_timestamp")]
    rows = [row for path in paths for row in read_table(path, columns).to_pylist()]
    episodes = []
    for row in sorted(rows, key=lambda row: row["dataset_from_index"]):
        videos = {}
        for camera in cameras:
            at = {name: row[f"videos/{camera}/{name}"] for name in ("chunk_index", "file_index")}
            path = root / info["video_path"].format(video_key=camera, **at)
            videos[camera] = Video(path, row[f"videos/{camera}/from_timestamp"])
        at = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        path = root / info["data_path"].format(**at)
        episodes.append(Episode(row["episode_index"], row["length"], tuple(row["tasks"]), path, videos))
    return episodes


def _episodes_v2(root: pathlib.Path, info: Mapping[str, Any]) -> list[Episode]:
    cameras = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    episodes = []
    for row in _json_lines(root / "meta/episodes.jsonl", ("episode_index", "tasks", "length")):
        number = row["episode_index"]
        at = {"episode_chunk": number // info.get("chunks_size", layout.CHUNKS_SIZE), "episode_index": number}
        videos = {c: Video(_found(root, info["video_path"].format(video_key=c, **at)), 0.0) for c in cameras}
        path = _found(root, info["data_path"].format(**at))
        episodes.append(Episode(number, row["length"], tuple(row["tasks"]), path, videos))
    return episodes


def _found(root: pathlib.Path, name: str) -> pathlib.Path:
    """The file, where it lies in another chunk folder than info.json has it too, as in some datasets of GR00T."""
    path = root / name
    kind, _, *rest = pathlib.PurePath(name).parts
    if path.exists() or not rest:
        return path
    others = sorted((root / kind).glob("/".join(["*", *rest])))
    return others[0] if len(others) == 1 else path


def _json_lines(path: pathlib.Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"{path} is missing; copy the dataset again")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            row = _json(path, line, f" line {number}")
            absent = [key for key in keys if key not in row]
            if absent:
                raise ValueError(f"{path} line {number}: {absent} missing; restore the original file")
            rows.append(row)
    return rows


def _json(path: pathlib.Path, text: str, where: str = "") -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}{where} is not JSON ({error}); restore the original file") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}{where} is not a JSON object; restore the original file")
    return found


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
