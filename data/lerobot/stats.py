"""Per-feature statistics in the shape that a LeRobot dataset stores them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data.lerobot.png import decode_png
from data.statistics import QUANTILES, describe

SAMPLED_IMAGES = 8  # images of an episode that its statistics look at, evenly spaced

FeatureStats = dict[str, list]


def number_stats(values_NA: np.ndarray) -> FeatureStats:
    """Statistics of a numeric feature [N,A]: a list of A numbers each, `count` a list of one."""
    return {name: found.tolist() for name, found in describe(values_NA).items()}


def sampled(length: int) -> list[int]:
    """Which of `length` images stand for all of them: `SAMPLED_IMAGES`, evenly spaced."""
    return np.unique(np.linspace(0, length - 1, SAMPLED_IMAGES).round().astype(int)).tolist()


@dataclasses.dataclass
class ImageStats:
    """Exact statistics of 8-bit images from a histogram, which adds up over episodes as quantiles do not."""

    histogram: np.ndarray  # int64[3,256]
    count: int  # images

    @classmethod
    def empty(cls) -> ImageStats:
        return cls(np.zeros((3, 256), np.int64), 0)

    @classmethod
    def of(cls, encoded: Sequence[bytes]) -> ImageStats:
        """Statistics of at most `SAMPLED_IMAGES` of the PNG images. Raises ValueError for one that does not decode."""
        return cls.of_pixels([decode_png(encoded[i]) for i in sampled(len(encoded))])

    @classmethod
    def of_pixels(cls, images: Sequence[np.ndarray]) -> ImageStats:
        """Statistics of uint8[H,W,3] images."""
        pixels = np.concatenate([image.reshape(-1, 3) for image in images])
        return cls(np.stack([np.bincount(pixels[:, c], minlength=256) for c in range(3)]), len(images))

    def add(self, other: ImageStats) -> None:
        self.histogram = self.histogram + other.histogram
        self.count += other.count

    def to_lists(self) -> FeatureStats:
        """min, max, mean, std and quantiles a channel as nested lists of shape (3,1,1) in 0..1."""
        levels = np.arange(256) / 255
        share = self.histogram / self.histogram.sum(axis=1, keepdims=True)
        mean = share @ levels
        found = {
            "min": levels[(share > 0).argmax(axis=1)],
            "max": levels[255 - (share > 0)[:, ::-1].argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1)),
        }
        cumulative = share.cumsum(axis=1)
        for name, quantile in QUANTILES.items():
            found[name] = levels[(cumulative >= quantile - 1e-12).argmax(axis=1)]
        return {name: values.reshape(3, 1, 1).tolist() for name, values in found.items()} | {"count": [self.count]}
