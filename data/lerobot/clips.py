"""Whole video files of one episode: counted, described, and cut out of longer ones without decoding."""

from __future__ import annotations

import pathlib
from typing import Any

import av
import numpy as np
from av.error import FFmpegError


def count_frames(path: pathlib.Path) -> int:
    """Frames of a video, by its packets. Raises ValueError where it cannot be read."""
    with _opened(path) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def video_shape(path: pathlib.Path) -> tuple[int, int, int]:
    """(height, width, 3)."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        return stream.height, stream.width, 3


def video_info(path: pathlib.Path) -> dict[str, Any]:
    """What info.json says of a video beside its shape."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        return {
            "video.height": stream.height,
            "video.width": stream.width,
            "video.codec": stream.codec_context.codec.canonical_name,
            "video.pix_fmt": stream.codec_context.pix_fmt,
            "video.is_depth_map": False,
            "video.fps": float(stream.average_rate or 0),
            "video.channels": 3,
            "has_audio": len(container.streams.audio) > 0,
        }


def some_frames(path: pathlib.Path, which: list[int]) -> list[np.ndarray]:
    """uint8[H,W,3] of the frames with these numbers, in rising order."""
    wanted, found = set(which), []
    with _opened(path) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                found.append(frame.to_ndarray(format="rgb24"))
                if len(found) == len(wanted):
                    break
    return found


def cut(source: pathlib.Path, start: float, length: int, fps: float, out: pathlib.Path) -> None:
    """Copies `length` frames from `start` seconds on into a file of their own, packets untouched.

    Raises ValueError where they are not all there, or do not begin with a keyframe and so cannot be decoded alone.
    """
    begin, end = start - 0.5 / fps, start + (length - 0.5) / fps
    with _opened(source) as container, av.open(str(out), "w") as copy:
        stream = container.streams.video[0]
        copied = copy.add_stream_from_template(stream, opaque=True)
        container.seek(max(0, int(begin / stream.time_base)), stream=stream, backward=True)
        count, offset = 0, None
        for packet in container.demux(stream):
            if packet.pts is None or not begin <= float(packet.pts * stream.time_base) < end:
                if packet.pts is not None and float(packet.pts * stream.time_base) >= end + 1:
                    break
                continue
            if offset is None:
                if not packet.is_keyframe:
                    raise ValueError(f"{source}: no keyframe at {start:.3f} s, where an episode begins")
                offset = packet.pts
            packet.pts, packet.dts = packet.pts - offset, (packet.dts or packet.pts) - offset
            packet.stream = copied
            copy.mux(packet)
            count += 1
    if count != length:
        raise ValueError(f"{source}: {count} frames from {start:.3f} s on, the episode has {length}")


def _opened(path: pathlib.Path) -> Any:
    try:
        container = av.open(str(path))
    except (FFmpegError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a video ({error}); copy the file again") from None
    if not container.streams.video:
        raise ValueError(f"{path} holds no video; copy the file again")
    return container
