"""Messages of openpi's policy protocol: msgpack in which an array is a map with binary keys.

The format is that of `openpi_client.msgpack_numpy`; nothing in it can name code, so a frame is data and no more.
"""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np

_REFUSED = "VOc"  # kinds of dtype that hold objects, structures or complex numbers


def pack(content: Any) -> bytes:
    """Maps, lists, text, numbers, None, arrays and NumPy scalars as one frame.

    Raises ValueError for an array of objects, structures or complex numbers, TypeError for any other type.
    """
    frame = msgpack.packb(content, default=_packed)
    assert frame is not None
    return frame


def unpack(frame: bytes) -> Any:
    """The content of a frame; arrays are read-only views of it. Raises ValueError where it is no such message."""
    try:
        return msgpack.unpackb(frame, object_hook=_unpacked)
    except (msgpack.UnpackException, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"the frame of {len(frame)} bytes is no msgpack message ({type(error).__name__}: {error}); send one map"
        ) from error


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        _refuse(value.dtype)
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        _refuse(value.dtype)
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} cannot be sent; allowed: maps, lists, text, numbers and arrays")


def _unpacked(content: dict) -> Any:
    if b"__ndarray__" in content:
        dtype = _dtype(content[b"dtype"])
        return np.ndarray(buffer=content[b"data"], dtype=dtype, shape=tuple(content[b"shape"]))
    if b"__npgeneric__" in content:
        return _dtype(content[b"dtype"]).type(content[b"data"])
    return content


def _dtype(name: Any) -> np.dtype:
    dtype = np.dtype(name)
    _refuse(dtype)
    return dtype


def _refuse(dtype: np.dtype) -> None:
    if dtype.kind in _REFUSED:
        raise ValueError(f"dtype {dtype} cannot be sent; allowed: booleans, integers, real numbers and text")
