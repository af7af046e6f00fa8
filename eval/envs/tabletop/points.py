"""Where things are in the picture: points (y, x) as integers 0..1000, the convention of Gemini Robotics-ER."""

from __future__ import annotations

from typing import Any

import numpy as np

from eval.envs.tabletop.render import RayCamera
from eval.envs.tabletop.scene import Layout

MIN_PIXELS = 4  # of 64x64: less than this in sight and the thing is not named
Point = dict[str, Any]


def points(
    camera: RayCamera, layout: Layout, objects_N3: np.ndarray, object_pixels: np.ndarray, zone_pixels: np.ndarray
) -> list[Point]:
    """Every object and zone that `camera` has in view as {"label": "red cube", "point": [y, x]}.

    Shapes: object centres float[n,3] in metres; pixels in sight, int[n] for the objects and int[z] for the zones.
    """
    things = [(item.name, place) for item, place in zip(layout.objects, objects_N3, strict=True)]
    things += [(zone.name, np.array([*zone.xy, 0.0])) for zone in layout.zones]
    image_N2, _ = camera.project(np.stack([place for _, place in things]))
    seen_N = np.concatenate([object_pixels, zone_pixels]) >= MIN_PIXELS
    inside_N = ((image_N2 >= 0) & (image_N2 <= 1)).all(1)
    return [
        {"label": label, "point": [round(1000 * y), round(1000 * x)]}
        for (label, _), (y, x), shown in zip(things, image_N2.tolist(), seen_N & inside_N, strict=True)
        if shown
    ]
