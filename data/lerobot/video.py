"""Single frames out of video files, by time, with one decoder a thread and file kept open."""

from __future__ import annotations

import collections
import contextlib
import pathlib
import threading
from collections.abc import Iterator

import av
import numpy as np
from av.error import FFmpegError

from data.elements import CorruptRecord

OPEN_FILES = 4  # a thread keeps the decoders of this many files
_SCAN_SECONDS = 1.0  # decoding on to a frame this near is cheaper than seeking to it


class _Decoder:
    """One open file that remembers where it is, so that frames read in order are decoded once."""

    def __init__(self, path: pathlib.Path):
        self.container = av.open(str(path))
        self.stream = self.container.streams.video[0]
        self.stream.thread_count = 1  # readers already run in parallel
        self.frames: Iterator[av.VideoFrame] = iter(())
        self.current: av.VideoFrame | None = None

    def frame_at(self, seconds: float, tolerance: float) -> np.ndarray:
        here = self.current.time if self.current is not None else None
        if here is None or not here - tolerance <= seconds <= here + _SCAN_SECONDS:
            start = max(0, int((seconds - tolerance) / self.stream.time_base))
            self.container.seek(start, stream=self.stream, backward=True)
            self.frames, self.current = self.container.decode(self.stream), None
        while self.current is None or self.current.time < seconds - tolerance:
            self.current = next(self.frames)
        if self.current.time > seconds + tolerance:
            raise ValueError(f"the nearest frame is at {self.current.time:.4f} s")
        return self.current.to_ndarray(format="rgb24")

    def close(self) -> None:
        self.frames, self.current = iter(()), None
        self.container.close()


class VideoFrames:
    """Frames of video files by path and time; safe to call from any number of threads."""

    def __init__(self, fps: float):
        self.tolerance = 0.5 / fps
        self._local = threading.local()

    def read(self, path: pathlib.Path, seconds: float) -> np.ndarray:
        """uint8[H,W,3] of the frame within half a frame of `seconds`. Raises CorruptRecord naming file and time."""
        if not path.is_file():
            raise CorruptRecord(f"{path}: the video file is missing; copy it again or leave the episode out")
        try:
            return self._decoder(path).frame_at(seconds, self.tolerance)
        except StopIteration:
            problem = "the video ends before"
        except (FFmpegError, ValueError, IndexError) as error:
            problem = str(error)
        self._drop(path)  # its position is unknown now
        raise CorruptRecord(
            f"{path}: no frame at {seconds:.4f} s within {self.tolerance:.4f} s ({problem}); copy the file again or "
            "check fps and timestamps"
        )

    def _decoder(self, path: pathlib.Path) -> _Decoder:
        if not hasattr(self._local, "decoders"):
            self._local.decoders = collections.OrderedDict()
        decoders: collections.OrderedDict[pathlib.Path, _Decoder] = self._local.decoders
        if path not in decoders:
            decoders[path] = _Decoder(path)
            if len(decoders) > OPEN_FILES:
                decoders.popitem(last=False)[1].close()
        decoders.move_to_end(path)
        return decoders[path]

    def _drop(self, path: pathlib.Path) -> None:
        decoder = getattr(self._local, "decoders", {}).pop(path, None)
        if decoder is not None:
            with contextlib.suppress(FFmpegError):
                decoder.close()
