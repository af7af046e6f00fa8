"""PNG bytes to pixels and back: how a LeRobot dataset without video keeps its camera frames."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image as PillowImage

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG of uint8[H,W,3]. Fast compression: rendered frames are small and many."""
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """uint8[H,W,3]. Raises ValueError saying what is wrong with the bytes."""
    try:
        with PillowImage.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error) as error:
        reason = str(error).partition(" <")[0]  # without the name of the buffer
        raise ValueError(f"image bytes cannot be decoded ({reason})") from None


def png_shape(data: bytes) -> tuple[int, int, int]:
    """(height, width, 3) from the header of an 8-bit RGB PNG, without decoding it. Raises ValueError otherwise."""
    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR" or len(data) < 33 or data[-8:-4] != b"IEND":
        raise ValueError("the bytes are not a complete PNG file")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if (depth, colour) != (8, 2):
        raise ValueError(f"the PNG has bit depth {depth} and colour type {colour}; 8-bit RGB is needed")
    return height, width, 3
