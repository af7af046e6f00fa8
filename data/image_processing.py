"""Pictures as a model sees them: RGB at the model's size, and Pan & Scan for those that are far from square.

What comes out is within one grey level of the processor that Gemma 3 (arXiv 2503.19786) has in HF transformers.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps


@dataclasses.dataclass(frozen=True)
class PanAndScan:
    """When and how a picture is cut into crops that are seen beside the whole (Gemma 3, section 2.1)."""

    min_crop_size: int = 256  # pixels; a picture whose crops would be narrower is left whole
    max_num_crops: int = 4
    min_ratio: float = 1.2  # of the longer side to the shorter

    def __post_init__(self):
        if self.min_crop_size < 1 or self.max_num_crops < 2 or self.min_ratio < 1:
            raise ValueError(
                f"min_crop_size, max_num_crops and min_ratio are {dataclasses.astuple(self)}; allowed: at least 1, 2 "
                "and 1"
            )

    def crops(self, height: int, width: int) -> list[tuple[slice, slice]]:
        """Rows and columns of each crop, along the longer side; equal but for the last. Empty: none is needed."""
        long, short = max(height, width), min(height, width)
        if long / short < self.min_ratio:
            return []
        num = min(math.floor(long / short + 0.5), math.floor(long / self.min_crop_size))
        num = min(max(num, 2), self.max_num_crops)
        size = math.ceil(long / num)
        if min(size, short) < self.min_crop_size:
            return []
        cuts = [slice(start, min(start + size, long)) for start in range(0, size * num, size)]
        whole = slice(0, short)
        return [(whole, cut) if width >= height else (cut, whole) for cut in cuts]


def load_picture(path: str | Path) -> np.ndarray:
    """uint8[H,W,3] of an image file, upright, transparency on white.

    Raises:
        ValueError: no such file, or one that holds no picture.
    """
    try:
        with PillowImage.open(path) as opened:
            return rgb(ImageOps.exif_transpose(opened))
    except (OSError, SyntaxError, PillowImage.DecompressionBombError) as error:
        raise ValueError(f"{path} is no picture that can be read ({error}); give a PNG, JPEG or WebP file") from None


def rgb(picture: PillowImage.Image) -> np.ndarray:
    """uint8[H,W,3] of a picture in any mode, transparency on white."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = PillowImage.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = PillowImage.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))


def resized(pixels_HWc: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8[*size,3]: the whole picture, whatever its shape, by bilinear interpolation with antialiasing."""
    height, width = size
    picture = PillowImage.fromarray(pixels_HWc).resize((width, height), PillowImage.Resampling.BILINEAR)
    return np.asarray(picture)


def views(pixels_HWc: np.ndarray, size: tuple[int, int], pan_and_scan: PanAndScan | None = None) -> list[np.ndarray]:
    """The picture and its crops, each uint8[*size,3]."""
    crops = pan_and_scan.crops(*pixels_HWc.shape[:2]) if pan_and_scan else []
    return [resized(pixels_HWc, size), *(resized(pixels_HWc[rows, columns], size) for rows, columns in crops)]
