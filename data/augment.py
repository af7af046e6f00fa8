"""Pictures of a robot's cameras as they might have been: a little cropped and turned, in other light.

The recipe of pi0 (openpi): a random crop to 95 %, a turn of up to 5 degrees and colour jitter; a wrist camera keeps its
geometry, since what it sees moves with the gripper. What is drawn is a function of (seed, document, epoch) alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageEnhance

from data.permutation import key_of


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How far images of training documents may differ from the recorded ones.

    A jitter of 0.3 draws a factor from 0.7 to 1.3. Validation, evaluation and serving see images as they are.
    """

    crop: float = 0.95  # height and width of the part that is kept, anywhere in the image; 1 = all of it
    rotation: float = 5.0  # degrees to either side, at most
    brightness: float = 0.3
    contrast: float = 0.4
    saturation: float = 0.5
    wrist: tuple[str, ...] = ()  # cameras on the robot's hand: colour alone

    def __post_init__(self):
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop is {self.crop}; it must be a share in (0, 1], 1 = no crop")
        if not 0 <= self.rotation <= 45:
            raise ValueError(f"rotation is {self.rotation}; it must be 0 .. 45 degrees")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1), 0 = unchanged")

    @property
    def moves(self) -> bool:
        """Whether things may end up in another place of the image."""
        return self.crop < 1 or self.rotation > 0


def augmented(
    images: Sequence[np.ndarray], cameras: Sequence[str], config: AugmentConfig, place: tuple[int | str, ...]
) -> tuple[np.ndarray, ...]:
    """The images uint8[H,W,3] of `cameras`, each changed by a draw that `place` (seed, document, epoch) fixes."""
    draws = np.random.default_rng(key_of("augment", *place))
    return tuple(
        _changed(pixels, config, camera not in config.wrist, draws)
        for pixels, camera in zip(images, cameras, strict=True)
    )


def _changed(pixels: np.ndarray, config: AugmentConfig, may_move: bool, draws: np.random.Generator) -> np.ndarray:
    """Every image takes as many draws, so that one camera's settings do not change what another one gets."""
    place_2, turn, factors = draws.random(2), draws.uniform(-1, 1), draws.uniform(-1, 1, 3)
    picture = PillowImage.fromarray(pixels)
    if may_move and config.moves:
        coefficients = _sampled_from(picture.size, config.crop, place_2, math.radians(turn * config.rotation))
        picture = picture.transform(
            picture.size, PillowImage.Transform.AFFINE, coefficients, PillowImage.Resampling.BILINEAR
        )
    jitter = (config.brightness, config.contrast, config.saturation)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhancer, width, factor in zip(enhancers, jitter, factors, strict=True):
        if width:
            picture = enhancer(picture).enhance(1 + width * factor)
    return np.asarray(picture)


def _sampled_from(
    size: tuple[int, int], crop: float, place_2: np.ndarray, angle: float
) -> tuple[float, float, float, float, float, float]:
    """(a, b, c, d, e, f): the pixel at (x, y) comes from (a x + b y + c, d x + e y + f).

    A window of the crop's size at `place_2` (0 .. 1 of the room it has), turned about its middle, fills the image.
    """
    width, height = size
    middle_x, middle_y = (side * (crop / 2 + (1 - crop) * share) for side, share in zip(size, place_2, strict=True))
    cosine, sine = crop * math.cos(angle), crop * math.sin(angle)
    return (
        *(cosine, -sine, middle_x - cosine * width / 2 + sine * height / 2),
        *(sine, cosine, middle_y - sine * width / 2 - cosine * height / 2),
    )
