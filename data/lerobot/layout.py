"""Where a LeRobot dataset keeps what: paths, feature descriptions, and the Arrow types that frames are stored as.

Follows the LeRobotDataset v3.0 layout (many episodes in one parquet file, metadata in parquet) and v2.1 (one parquet
file and one video an episode, metadata in JSON lines).
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

VERSION = "v3.0"
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
CHUNKS_SIZE = 1000  # files in a chunk folder
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
VERSION_2 = "v2.1"
DATA_PATH_2 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH_2 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200

_NUMBERS = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")

# Columns that the writer fills in itself, in the order the format lists them.
INDEX_FEATURES = {
    name: {"dtype": dtype, "shape": [1], "names": None}
    for name, dtype in {
        "timestamp": "float32",
        "frame_index": "int64",
        "episode_index": "int64",
        "index": "int64",
        "task_index": "int64",
    }.items()
}

IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def is_visual(feature: Mapping[str, Any]) -> bool:
    return feature["dtype"] in ("image", "video")


def is_number(feature: Mapping[str, Any]) -> bool:
    return feature["dtype"] in _NUMBERS


def normalised_features(features: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Features as this package reads them: pictures [height, width, 3], numbers [n] whatever shape they were given."""
    found = {}
    for name, feature in features.items():
        shape = list(feature["shape"])
        if is_visual(feature) and len(shape) == 3 and shape[0] == 3 and shape[2] != 3:  # channels first, in some sets
            feature = {**feature, "shape": [*shape[1:], 3], "names": ["height", "width", "channels"]}
        elif is_number(feature) and len(shape) != 1:
            feature = {**feature, "shape": [math.prod(shape)], "names": None}
        found[name] = dict(feature)
    return found


def check_features(features: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The features a caller wants written, as plain JSON, or ValueError naming the one that cannot be."""
    if not features:
        raise ValueError("features: empty; describe at least one, as in info.json")
    checked = {}
    for name, feature in features.items():
        missing = {"dtype", "shape"} - set(feature)
        if missing:
            raise ValueError(f"feature {name!r}: {sorted(missing)} missing; give dtype, shape and names")
        shape, dtype = [int(n) for n in feature["shape"]], feature["dtype"]
        if name in INDEX_FEATURES or "/" in name:
            raise ValueError(f"feature {name!r}: the name is reserved or holds a '/'; choose another")
        picture = len(shape) == 3 and shape[2] == 3
        fits = {"image": picture, "video": picture, "string": shape == [1]}.get(dtype, len(shape) == 1)
        if dtype not in ("image", "video", "string", *_NUMBERS):
            allowed = ["image", "video", "string", *_NUMBERS]
            raise ValueError(f"feature {name!r}: dtype {dtype!r} cannot be written; allowed are {allowed}")
        if not fits or min(shape) < 1:
            raise ValueError(
                f"feature {name!r}: shape {shape} does not suit dtype {dtype!r}; images are [height, width, 3], as are "
                "videos, strings [1], numbers [n] (flatten higher ranks)"
            )
        checked[name] = {**feature, "dtype": dtype, "shape": shape, "names": feature.get("names")}
    if all(feature["dtype"] == "video" for feature in checked.values()):
        raise ValueError(f"features: {sorted(checked)} are videos alone; describe what the robot feels or does too")
    return checked


def arrow_schema(features: Mapping[str, Mapping[str, Any]]) -> pa.Schema:
    """Column types of a frame table, with the feature description that Hugging Face `datasets` looks for."""
    fields, described = [], {}
    for name, feature in features.items():
        if feature["dtype"] == "video":
            continue
        arrow_type, described[name] = _storage(feature)
        fields.append(pa.field(name, arrow_type))
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": described}})})


def _storage(feature: Mapping[str, Any]) -> tuple[pa.DataType, dict[str, Any]]:
    if feature["dtype"] == "image":
        return IMAGE_TYPE, {"_type": "Image"}
    value = {"dtype": feature["dtype"], "_type": "Value"}
    scalar = pa.type_for_alias(feature["dtype"])
    (width,) = feature["shape"]
    if width == 1:  # the format stores a width of 1 as a plain column
        return scalar, value
    return pa.list_(scalar, width), {"feature": value, "length": width, "_type": "Sequence"}


def numbers_to_arrow(values_NA: np.ndarray, arrow_type: pa.DataType) -> pa.Array:
    """Rows [N,A] as the column type that `arrow_schema` gives."""
    flat = pa.array(values_NA.reshape(-1))
    return (
        flat
        if not pa.types.is_fixed_size_list(arrow_type)
        else pa.FixedSizeListArray.from_arrays(flat, type=arrow_type)
    )


def arrow_to_numbers(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """A numeric column as [N,width]. Raises ValueError when a row is null or has another width."""
    if column.null_count:
        raise ValueError(f"{column.null_count} rows are null")
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], column.type)
    flat = array
    while pa.types.is_nested(flat.type):
        flat = flat.flatten()
    if flat.null_count or len(flat) != len(array) * width:
        raise ValueError(f"{len(array)} rows hold {len(flat)} numbers, not {width} each")
    return flat.to_numpy(zero_copy_only=False).reshape(len(array), width)


def write_json(path: pathlib.Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False), encoding="utf-8")


def tasks_table(tasks: list[str]) -> pa.Table:
    """The task list as pandas would write it with the task text as index, which is what readers of v3.0 expect."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    text = {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    index = {
        "name": "task_index",
        "field_name": "task_index",
        "pandas_type": "int64",
        "numpy_type": "int64",
        "metadata": None,
    }
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": [index, text]}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})
