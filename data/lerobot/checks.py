"""What an episode must look like to be stored; every refusal names episode, feature, frame and remedy."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.lerobot.clips import count_frames, video_shape
from data.lerobot.png import encode_png, png_shape


def check_episode(
    frames: Mapping[str, Sequence | np.ndarray], features: Mapping[str, Mapping[str, Any]], episode: int
) -> dict[str, Any]:
    """The columns of one episode, ready to store: PNG bytes, strings, and numbers [N,width] of the declared dtype."""
    where = f"episode {episode}"
    if set(frames) != set(features):
        missing, extra = sorted(set(features) - set(frames)), sorted(set(frames) - set(features))
        raise ValueError(f"{where}: features missing {missing}, unknown {extra}; give exactly {sorted(features)}")
    lengths = {name: len(values) for name, values in frames.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{where}: features differ in length {lengths}; give one value a frame for each")
    if not next(iter(lengths.values())):
        raise ValueError(f"{where}: it has no frames; leave empty episodes out")
    columns = {}
    for name, values in frames.items():
        check = {"image": _images, "string": _strings}.get(features[name]["dtype"], _numbers)
        columns[name] = check(values, features[name], f"{where}, feature {name!r}")
    return columns


def check_tasks(task: str | Sequence[str], length: int, episode: int) -> list[str]:
    """One instruction a frame, from one for the whole episode or one for each frame."""
    tasks = [task] * length if isinstance(task, str) else list(task)
    if len(tasks) != length:
        raise ValueError(f"episode {episode}: {len(tasks)} tasks for {length} frames; give one, or one for each frame")
    for said in dict.fromkeys(tasks):
        if not isinstance(said, str) or not said.strip():
            raise ValueError(f"episode {episode}: task is {said!r}; give the instruction as a non-empty string")
    return tasks


def check_videos(
    videos: Mapping[str, pathlib.Path], features: Mapping[str, Mapping[str, Any]], length: int, episode: int
) -> None:
    """Refuses files that are not one video for each video feature, with as many frames of its size as the episode."""
    if set(videos) != set(features):
        raise ValueError(f"episode {episode}: videos of {sorted(videos)}; give one for each of {sorted(features)}")
    for name, path in videos.items():
        found = count_frames(path)
        if found != length:
            raise ValueError(f"episode {episode}, feature {name!r}: {path} has {found} frames, the episode {length}")
        shape, wanted = video_shape(path), tuple(features[name]["shape"])
        if shape != wanted:
            raise ValueError(f"episode {episode}, feature {name!r}: {path} has frames {shape}, declared {wanted}")


def _images(values: Sequence, feature: Mapping[str, Any], where: str) -> list[bytes]:
    shape, encoded = tuple(feature["shape"]), []
    for frame, value in enumerate(values):
        if isinstance(value, bytes):
            try:
                found = png_shape(value)
            except ValueError as error:
                raise ValueError(f"{where}, frame {frame}: {error}; encode the frame again") from None
        else:
            found = np.shape(value)
            if getattr(value, "dtype", None) != np.uint8:
                given = getattr(value, "dtype", type(value).__name__)
                raise ValueError(f"{where}, frame {frame}: dtype {given}; give uint8 pixels in 0..255 or PNG bytes")
        if found != shape:
            raise ValueError(
                f"{where}, frame {frame}: shape {found}, declared {shape}; resize it or change the feature"
            )
        encoded.append(value if isinstance(value, bytes) else encode_png(value))
    return encoded


def _strings(values: Sequence, feature: Mapping[str, Any], where: str) -> list[str]:
    for frame, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"{where}, frame {frame}: {type(value).__name__} given; give a string")
    return list(values)


def _numbers(values: Sequence | np.ndarray, feature: Mapping[str, Any], where: str) -> np.ndarray:
    (width,), dtype = feature["shape"], np.dtype(feature["dtype"])
    allowed = {(width,), ()} if width == 1 else {(width,)}
    shapes = [values.shape[1:]] if isinstance(values, np.ndarray) else [np.shape(value) for value in values]
    for frame, shape in enumerate(shapes):
        if shape not in allowed:
            raise ValueError(f"{where}, frame {frame}: shape {shape}, declared {(width,)}; fix the data or the feature")
    array = np.asarray(values).reshape(len(values), width)
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise ValueError(f"{where}: dtype {array.dtype} does not convert to {dtype} without loss; convert it first")
    array = array.astype(dtype)
    finite = np.isfinite(array)
    if not finite.all():
        frame, dim = np.argwhere(~finite)[0]
        raise ValueError(
            f"{where}, frame {frame}: dim {dim} is {array[frame, dim]}; drop the frame or repair the value"
        )
    return array
